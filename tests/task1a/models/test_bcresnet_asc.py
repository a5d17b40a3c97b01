import pytest
import torch
from torch import nn

from task1a.models.cost import estimate, parameter_count


@pytest.mark.parametrize("tau, parameters, macs, conv_weights, conv_layers, depthwise, norms", [
    (1, 8_055, 19_562_940, None, None, None, None),
    (8, 314_970, 509_416_920, 300_320, 33, 7_920, 14_640),
])
def test_published_counts(network, tau, parameters, macs, conv_weights, conv_layers, depthwise, norms):
    model = network(tau=tau)
    assert parameter_count(model) == parameters
    assert estimate(model, (1, 256, 334)).multiply_accumulates == macs
    if conv_weights:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        assert len(layers) == conv_layers
        assert sum(layer.weight.numel() for layer in layers) == conv_weights
        assert sum(layer.weight.numel() for layer in layers if layer.groups > 1) == depthwise
        assert sum(p.numel() for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)
                   for p in layer.parameters()) == norms
        assert sum(b.numel() for name, b in model.named_buffers() if "running" in name) == norms


def test_residual_norm_positions(network):
    places = {}
    for where in ("all", "input", "none"):
        model = network(residual_norm=where)
        assert parameter_count(model) == 8_055
        places[where] = [name for name, layer in model.named_modules() if type(layer).__name__ == "ResidualNorm"]
    assert places == {"all": ["input_norm", *(f"stage_norms.{k}" for k in range(4))], "input": ["input_norm"],
                      "none": []}


def test_shapes_after_every_stage(network):
    model = network().eval()
    shapes = {}
    for name, layer in [("stem", model.stem), *((f"stage {k + 1}", stage) for k, stage in enumerate(model.stages)),
                        ("head", model.head)]:
        layer.register_forward_hook(lambda layer, x, y, name=name: shapes.update({name: tuple(y.shape[1:])}))
    assert model(torch.zeros(2, 1, 256, 334)).shape == (2, 10)
    assert shapes == {"stem": (20, 128, 167), "stage 1": (10, 128, 167), "stage 2": (15, 64, 83),
                      "stage 3": (20, 32, 41), "stage 4": (25, 32, 41), "head": (10, 32, 41)}


def seen_by_one_output(model: nn.Module) -> torch.Tensor:
    """Which inputs, bool [bins, frames], one position of the head's output depends on."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01 if parameter.dim() == 4 else 1.0)
    x = torch.rand(1, 1, 256, 334, dtype=torch.float64, requires_grad=True)
    outputs = []
    model.head.register_forward_hook(lambda layer, x, y: outputs.append(y))
    model(x)
    return torch.autograd.grad(outputs[0][0, :, 16, 20].sum(), x)[0][0, 0] != 0


def test_local_receptive_field_is_115_by_115(network, monkeypatch):
    monkeypatch.setattr(nn.functional, "max_pool2d", nn.functional.avg_pool2d)  # passes a gradient to all of its inputs
    model = network(residual_norm="none", dropout=0).eval().double()
    frames = seen_by_one_output(model).any(dim=0).nonzero()
    assert frames.max() - frames.min() + 1 == 115
    for stage in model.stages:
        for block in stage:
            block.mix = nn.Conv2d(1, 1, 1).requires_grad_(False)
            block.mix.forward = torch.zeros_like  # the broadcast branch sees all frequencies
    bins = seen_by_one_output(model).any(dim=1).nonzero()
    assert bins.max() - bins.min() + 1 == 115


def test_fewer_classes_and_sub_bands(network):
    assert network(classes=3, tau=0.2, sub_bands=2)(torch.zeros(1, 1, 32, 40)).shape == (1, 3)
