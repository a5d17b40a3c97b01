import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def layers_of():
    """A function: the convolutions of a model in the order in which they are passed, one line each.

    Weight shape, stride, padding, dilation, groups, bias, channels of the batch norm that comes next, output size.
    """

    def describe(model: nn.Module, input_shape: tuple[int, ...]) -> list[list]:
        rows = []

        def passed(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            if isinstance(layer, nn.BatchNorm2d):
                assert rows[-1][6] == "-", "two norms after one convolution"
                rows[-1][6] = str(layer.num_features)
                return
            places = [",".join(map(str, values)) for values in (layer.stride, layer.padding, layer.dilation)]
            rows.append(["x".join(map(str, layer.weight.shape)), *places, str(layer.groups),
                         "-" if layer.bias is None else "bias", "-", "x".join(map(str, output.shape[2:]))])

        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.register_forward_hook(passed)
        model.to("meta").eval()(torch.empty(1, *input_shape, device="meta"))
        return [" ".join(row) for row in rows]

    return describe
