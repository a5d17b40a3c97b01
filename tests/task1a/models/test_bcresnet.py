import pytest
import torch

from task1a.models import BCResNet, BCResNetASC, multiply_accumulates, parameter_count

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


def test_layers_are_those_of_the_public_implementation_but_for_the_last_norm(layers_of):
    with_norm, without = "256x160x1x1 1,1 0,0 1,1 1 - 256 28x334", "256x160x1x1 1,1 0,0 1,1 1 - - 28x334"
    assert with_norm in PUBLIC
    assert layers_of(BCResNet(10), (1, 256, 334)) == [without if row == with_norm else row for row in PUBLIC]


def test_published_count():
    assert parameter_count(BCResNet(10)) == 317_098
    # scale and shift of the 256 channels of the norm that the authors' code has and the published count has not
    assert parameter_count(BCResNet(10)) + 2 * 256 == 317_610


def test_multiply_accumulates_by_hand():
    """Those of the table above, an output position and a channel at a time."""
    by_hand = 0
    for row in PUBLIC:
        weight, *_, output = row.split()
        channels, *kernel = map(int, weight.split("x"))
        bins, frames = map(int, output.split("x"))
        by_hand += channels * bins * frames * kernel[0] * kernel[1] * kernel[2]
    assert multiply_accumulates(BCResNet(10), (1, 256, 334)) == by_hand


def test_dilation_and_stride_are_all_that_the_blocks_add_to_those_of_bcresnet_asc():
    names = [{name.split(".", 3)[3] for name in model.state_dict() if name.startswith("stages.1.0.")}
             for model in (BCResNet(10), BCResNetASC(10))]
    assert names[0] == names[1]
    strided, plain = (model.stages[1][0] for model in (BCResNet(10, tau=1), BCResNetASC(10)))
    assert (strided.frequency_conv.stride, strided.time_conv.dilation) == ((2, 1), (1, 2))
    assert (plain.frequency_conv.stride, plain.time_conv.dilation) == ((1, 1), (1, 1))


@pytest.mark.parametrize("tau, bins, frames", [(8, 256, 20), (0.5, 64, 7), (1, 96, 1)])
@torch.no_grad()
def test_shapes(tau, bins, frames):
    assert BCResNet(3, tau=tau).eval()(torch.randn(2, 1, bins, frames)).shape == (2, 3)
