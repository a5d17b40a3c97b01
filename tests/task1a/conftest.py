import pytest
import torch
from torch import nn

from task1a import models
from task1a.config import NETWORKS


@pytest.fixture(scope="session")
def network():
    """A function that builds a network with default settings except those given."""

    def build(name="bcresnet_asc", classes=10, **settings):
        return models.build(classes, name, **NETWORKS[name](**settings).settings)

    return build


@pytest.fixture(scope="session")
def as_trained():
    """A function that draws all weights, norms and running statistics of a model, as they might be after training."""

    @torch.no_grad()
    def draw(model):
        torch.manual_seed(1)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5).copysign_(torch.randn(layer.bias.shape))
                layer.bias.normal_()
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
        return model.eval()

    return draw
