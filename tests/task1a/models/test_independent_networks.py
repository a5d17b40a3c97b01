"""The networks written a second time, from the tables of their papers, as functions of tensors.

Nothing of the package computes here: a network is a sequence of calls of ``torch.nn.functional`` that take their
parameters from a state dictionary, by name. Outputs, the gradients of all parameters and of the input, and the running
statistics are compared in float64.
"""
import pytest
import torch
from torch.nn import functional as F

# of float64, over some forty layers
TOLERANCE = 1e-9


class Operators:
    """Layers by name, with the parameters and the running statistics of a state dictionary."""

    def __init__(self, state, training, sub_bands=4, dropout=0.1):
        self.state, self.training, self.sub_bands, self.dropout = state, training, sub_bands, dropout

    def conv(self, name, x, **settings):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **settings)

    def depthwise(self, name, x, **settings):
        return self.conv(name, x, groups=x.shape[1], **settings)

    def batch_norm(self, name, x):
        return F.batch_norm(x, *self.values_of_norm(name), self.training)

    def sub_spectral_norm(self, name, x):
        """A batch norm for every band; its values are a column of [channels, bands]."""
        bands = []
        for number, band in enumerate(x.split(x.shape[2] // self.sub_bands, dim=2)):
            columns = [value.view(-1, self.sub_bands)[:, number] for value in self.values_of_norm(name)]
            bands.append(F.batch_norm(band, *columns, self.training))
        return torch.cat(bands, dim=2)

    def values_of_norm(self, name):
        return [self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]


def equations_1_to_3(x, shortcut, eps):
    """ResNorm, of one example and one frequency at a time."""
    clips = []
    for clip in x:
        rows = []
        for row in clip.unbind(1):
            mean = row.sum() / row.numel()
            variance = ((row - mean) ** 2).sum() / row.numel()
            rows.append(shortcut * row + (row - mean) / (variance + eps).sqrt())
        clips.append(torch.stack(rows, dim=1))
    return torch.stack(clips)


def broadcast_block(layers, name, x, channels_change, stride=1, dilation=1):
    """y = ReLU(f2(x) + f1(mean of f2(x) over frequency)), and x is added where channels stay as many."""
    y = x
    if channels_change:
        y = F.relu(layers.batch_norm(f"{name}.expand.1", layers.conv(f"{name}.expand.0", x)))
    y = layers.depthwise(f"{name}.frequency_conv", y, stride=(stride, 1), padding=(1, 0))
    y = layers.sub_spectral_norm(f"{name}.frequency_norm.norm", y)
    z = y.sum(dim=2, keepdim=True) / y.shape[2]
    z = layers.depthwise(f"{name}.time_conv", z, padding=(0, dilation), dilation=(1, dilation))
    z = layers.conv(f"{name}.mix", F.silu(layers.batch_norm(f"{name}.time_norm", z)))
    y = y + F.dropout2d(z, layers.dropout, layers.training)
    return F.relu(y) if channels_change else F.relu(y + x)


def bcresnet_asc(state, training, x, residual_norm="all", residual_norm_shortcut=0.1, residual_norm_eps=1e-5,
                 **settings):
    layers = Operators(state, training, **settings)
    if residual_norm != "none":
        x = equations_1_to_3(x, residual_norm_shortcut, residual_norm_eps)
    x = F.relu(layers.batch_norm("stem.1", layers.conv("stem.0", x, stride=2, padding=2)))
    for stage, blocks in enumerate((2, 2, 2, 3)):
        for number in range(blocks):
            x = broadcast_block(layers, f"stages.{stage}.{number}", x, channels_change=number == 0)
        if residual_norm == "all":
            x = equations_1_to_3(x, residual_norm_shortcut, residual_norm_eps)
        if stage < 2:
            x = F.max_pool2d(x, 2)
    return layers.conv("head", x).mean(dim=(2, 3))


def bcresnet(state, training, x, **settings):
    layers = Operators(state, training, **settings)
    x = F.relu(layers.batch_norm("stem.1", layers.conv("stem.0", x, stride=(2, 1), padding=2)))
    for stage, (blocks, stride, dilation) in enumerate([(2, 1, 1), (2, 2, 2), (4, 2, 4), (4, 1, 8)]):
        for number in range(blocks):
            x = broadcast_block(layers, f"stages.{stage}.{number}", x, channels_change=number == 0,
                                stride=1 if number else stride, dilation=dilation)
    x = F.relu(layers.conv("tail.1", layers.depthwise("tail.0", x, padding=(0, 2))))
    return layers.conv("head", x).mean(dim=(2, 3))


def cp_resnet(state, training, x, rho=5):
    layers = Operators(state, training)
    x = F.relu(layers.batch_norm("stem.1", layers.conv("stem.0", x, stride=2, padding=1)))
    padding = [1, 0, *[1] * rho, *[0] * (22 - rho)]  # of kernels of 3 and 1
    place = 0  # in the sequence of blocks and pools
    for number in range(12):
        name, y = f"stages.{place}", x
        y = F.relu(layers.batch_norm(f"{name}.norm1", layers.conv(f"{name}.conv1", y, padding=padding[2 * number])))
        y = layers.batch_norm(f"{name}.norm2", layers.conv(f"{name}.conv2", y, padding=padding[2 * number + 1]))
        if number in (4, 8):
            x = layers.batch_norm(f"{name}.shortcut.1", layers.conv(f"{name}.shortcut.0", x))
        x = F.relu(y + x)
        place += 1
        if number in (0, 1, 3):
            x = F.max_pool2d(x, 2)
            place += 1
    return layers.batch_norm("classifier.1", layers.conv("classifier.0", x)).mean(dim=(2, 3))


NARROW = {bcresnet_asc: {"tau": 0.4}, bcresnet: {"tau": 0.5}, cp_resnet: {"width": 3}}
CASES = [
    (bcresnet_asc, {}),
    (bcresnet_asc, {"residual_norm": "input"}),
    (bcresnet_asc, {"residual_norm": "none"}),
    (bcresnet_asc, {"residual_norm_shortcut": 0.0}),
    (bcresnet_asc, {"residual_norm_shortcut": 0.5, "residual_norm_eps": 0.1, "sub_bands": 2, "dropout": 0.4}),
    (bcresnet, {}),
    (bcresnet, {"sub_bands": 2, "dropout": 0.4}),
    (cp_resnet, {}),
    (cp_resnet, {"rho": 17}),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("function, settings", CASES)
def test_second_implementation(network, as_trained, function, settings,
                                                                               training):
    model = as_trained(network(function.__name__, 3, **NARROW[function], **settings)).double().train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    for name in parameters:
        state[name].requires_grad_()
    x = torch.randn(4, 1, 64, 38, dtype=torch.float64) * 3 - 6
    x, x_again = x.clone().requires_grad_(), x.clone().requires_grad_()

    torch.manual_seed(1)  # of the dropout
    outputs = model(x)
    torch.manual_seed(1)
    expected = function(state, training, x_again, **settings)
    torch.testing.assert_close(outputs, expected, rtol=TOLERANCE, atol=TOLERANCE)

    upstream = torch.randn(outputs.shape, dtype=torch.float64)
    outputs.backward(upstream)
    expected.backward(upstream)
    gradients = {name: value.grad for name, value in parameters.items()}
    assert all(gradient.any() for gradient in gradients.values())
    torch.testing.assert_close({**gradients, "input": x.grad},
                               {**{name: state[name].grad for name in parameters}, "input": x_again.grad},
                               rtol=TOLERANCE, atol=TOLERANCE)
    statistics = {name: value for name, value in model.named_buffers() if "running" in name}
    torch.testing.assert_close(statistics, {name: state[name] for name in statistics}, rtol=TOLERANCE, atol=TOLERANCE)
