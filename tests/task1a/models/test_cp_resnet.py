import math

import pytest
import torch
from torch import nn

from task1a.models.cost import parameter_count
from task1a.models.cp_resnet import CPResNet

# The layers of the authors' code (github.com/kkoutini/cpjku_dcase20, cp_resnet) for width 64, rho 5, 10 classes and two
# channels, as they are passed by an input of 2 x 256 x 334, in the columns of the fixture layers_of
PUBLIC = """
64x2x5x5 2,2 1,1 1,1 1 - 64 127x166
64x64x3x3 1,1 1,1 1,1 1 - 64 127x166
64x64x1x1 1,1 0,0 1,1 1 - 64 127x166
64x64x3x3 1,1 1,1 1,1 1 - 64 63x83
64x64x3x3 1,1 1,1 1,1 1 - 64 63x83
64x64x3x3 1,1 1,1 1,1 1 - 64 31x41
64x64x3x3 1,1 1,1 1,1 1 - 64 31x41
64x64x3x3 1,1 1,1 1,1 1 - 64 31x41
64x64x1x1 1,1 0,0 1,1 1 - 64 31x41
128x64x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x64x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
128x128x1x1 1,1 0,0 1,1 1 - 128 15x20
256x128x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x128x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
256x256x1x1 1,1 0,0 1,1 1 - 256 15x20
10x256x1x1 1,1 0,0 1,1 1 - 10 15x20
""".split("\n")[1:-1]

# kernel sizes of the two convolutions of the twelve blocks, as the authors' get_model_based_on_rho has them
KERNELS = {
    0: "31 11 11 11  11 11 11 11  11 11 11 11",
    2: "31 33 11 11  11 11 11 11  11 11 11 11",
    7: "31 33 33 33  31 11 11 11  11 11 11 11",
    15: "31 33 33 33  33 33 33 33  31 11 11 11",
    22: "31 33 33 33  33 33 33 33  33 33 33 33",
}


@pytest.mark.parametrize("channels, parameters", [(2, 898_580), (1, 896_980)])
def test_layers_of_the_public_implementation(layers_of, channels, parameters):
    model = CPResNet(10, width=64, rho=5, in_channels=channels)
    assert parameter_count(model) == parameters
    stem = PUBLIC[0].replace("64x2x5x5", f"64x{channels}x5x5")
    assert layers_of(model, (channels, 256, 334)) == [stem, *PUBLIC[1:]]


@pytest.mark.parametrize("rho", KERNELS)
def test_kernels_by_rho(network, rho):
    blocks = [layer for layer in network("cp_resnet", width=2, rho=rho).stages if hasattr(layer, "conv1")]
    assert [f"{block.conv1.kernel_size[0]}{block.conv2.kernel_size[0]}" for block in blocks] == KERNELS[rho].split()


def test_fixup(network):
    """sqrt(2 / fan-out) for shortcuts, a 12th root of 2 of that for the first convolution, 0 for the second."""
    torch.manual_seed(0)
    model = network("cp_resnet")
    blocks = [layer for layer in model.stages if hasattr(layer, "conv1")]
    assert len(blocks) == 12
    for block in blocks:
        fan_out = block.conv1.out_channels * block.conv1.kernel_size[0] ** 2
        assert block.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out / 12), rel=0.05)
        assert not block.conv2.weight.any()
        if block.shortcut is not None:
            wide = block.shortcut[0].out_channels
            assert block.shortcut[0].weight.std().item() == pytest.approx(math.sqrt(2 / wide), rel=0.05)
    assert model.stem[0].weight.std().item() == pytest.approx(math.sqrt(2 / 25), rel=0.05)
    assert not model.eval()(torch.randn(2, 1, 32, 40)).any()


def test_it_learns_from_where_it_starts(network):
    torch.manual_seed(0)
    model, x, y = network("cp_resnet", 2, width=8), torch.randn(16, 1, 32, 32), torch.arange(16) % 2
    x += 2 * y[:, None, None, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-3)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2)) and losses[-1] < 0.2
