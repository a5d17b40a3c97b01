import pytest
import torch

from task1a.models.cost import estimate, parameter_count

# The layers of the authors' code (github.com/Qualcomm-AI-research/bcresnet) for c = 64, 10 classes and 4 sub-bands, as
# they are passed by an input of 1 x 256 x 334, in the columns of the fixture layers_of
PUBLIC = """
128x1x5x5 2,1 2,2 1,1 1 - 128 128x334
64x128x1x1 1,1 0,0 1,1 1 - 64 128x334
64x1x3x1 1,1 1,0 1,1 64 - 256 128x334
64x1x1x3 1,1 0,1 1,1 64 - 64 1x334
64x64x1x1 1,1 0,0 1,1 1 - - 1x334
64x1x3x1 1,1 1,0 1,1 64 - 256 128x334
64x1x1x3 1,1 0,1 1,1 64 - 64 1x334
64x64x1x1 1,1 0,0 1,1 1 - - 1x334
96x64x1x1 1,1 0,0 1,1 1 - 96 128x334
96x1x3x1 2,1 1,0 1,1 96 - 384 64x334
96x1x1x3 1,1 0,2 1,2 96 - 96 1x334
96x96x1x1 1,1 0,0 1,1 1 - - 1x334
96x1x3x1 1,1 1,0 1,1 96 - 384 64x334
96x1x1x3 1,1 0,2 1,2 96 - 96 1x334
96x96x1x1 1,1 0,0 1,1 1 - - 1x334
128x96x1x1 1,1 0,0 1,1 1 - 128 64x334
128x1x3x1 2,1 1,0 1,1 128 - 512 32x334
128x1x1x3 1,1 0,4 1,4 128 - 128 1x334
128x128x1x1 1,1 0,0 1,1 1 - - 1x334
128x1x3x1 1,1 1,0 1,1 128 - 512 32x334
128x1x1x3 1,1 0,4 1,4 128 - 128 1x334
128x128x1x1 1,1 0,0 1,1 1 - - 1x334
128x1x3x1 1,1 1,0 1,1 128 - 512 32x334
128x1x1x3 1,1 0,4 1,4 128 - 128 1x334
128x128x1x1 1,1 0,0 1,1 1 - - 1x334
128x1x3x1 1,1 1,0 1,1 128 - 512 32x334
128x1x1x3 1,1 0,4 1,4 128 - 128 1x334
128x128x1x1 1,1 0,0 1,1 1 - - 1x334
160x128x1x1 1,1 0,0 1,1 1 - 160 32x334
160x1x3x1 1,1 1,0 1,1 160 - 640 32x334
160x1x1x3 1,1 0,8 1,8 160 - 160 1x334
160x160x1x1 1,1 0,0 1,1 1 - - 1x334
160x1x3x1 1,1 1,0 1,1 160 - 640 32x334
160x1x1x3 1,1 0,8 1,8 160 - 160 1x334
160x160x1x1 1,1 0,0 1,1 1 - - 1x334
160x1x3x1 1,1 1,0 1,1 160 - 640 32x334
160x1x1x3 1,1 0,8 1,8 160 - 160 1x334
160x160x1x1 1,1 0,0 1,1 1 - - 1x334
160x1x3x1 1,1 1,0 1,1 160 - 640 32x334
160x1x1x3 1,1 0,8 1,8 160 - 160 1x334
160x160x1x1 1,1 0,0 1,1 1 - - 1x334
160x1x5x5 1,1 0,2 1,1 160 - - 28x334
256x160x1x1 1,1 0,0 1,1 1 - 256 28x334
10x256x1x1 1,1 0,0 1,1 1 bias - 1x1
""".split("\n")[1:-1]


def test_layers_of_the_public_implementation(layers_of, network):
    with_norm, without = "256x160x1x1 1,1 0,0 1,1 1 - 256 28x334", "256x160x1x1 1,1 0,0 1,1 1 - - 28x334"
    assert with_norm in PUBLIC
    assert layers_of(network("bcresnet"), (1, 256, 334)) == [without if row == with_norm else row for row in PUBLIC]


def test_published_count(network):
    # the authors' code has 2 * 256 more, scale and shift of the last norm
    assert parameter_count(network("bcresnet")) == 317_098 == 317_610 - 2 * 256


def test_multiply_accumulates_by_hand(network):
    """Those of the table above, an output position and a channel at a time."""
    by_hand = 0
    for row in PUBLIC:
        weight, *_, output = row.split()
        channels, *kernel = map(int, weight.split("x"))
        bins, frames = map(int, output.split("x"))
        by_hand += channels * bins * frames * kernel[0] * kernel[1] * kernel[2]
    assert estimate(network("bcresnet"), (1, 256, 334)).multiply_accumulates == by_hand


@pytest.mark.parametrize("tau, bins, frames", [(8, 256, 20), (0.5, 64, 7), (1, 96, 1)])
@torch.no_grad()
def test_shapes(network, tau, bins, frames):
    assert network("bcresnet", 3, tau=tau).eval()(torch.randn(2, 1, bins, frames)).shape == (2, 3)
