"""The functions for the CPU against torch's own, values and gradients in float64."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from task1a.models.cpu import kernels
from task1a.models.cpu.kernels import FrequencyConv2d, PointwiseConv2d
from task1a.models.normalization import relaxed_norm, residual_norm


def tensor(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def plain_residual_norm(x, shortcut, eps):
    variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
    return shortcut * x + (x - mean) / torch.sqrt(variance + eps)


def plain_relaxed_norm(x, share, eps):
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
    return share * (x - mean) / torch.sqrt(variance + eps) + (1 - share) * plain_residual_norm(x, 0.0, eps)


CASES = {
    "frequency": (lambda x: kernels.frequency_conv(x, tensor(3, 1, 3, 1)),
                  lambda x: F.conv2d(x, tensor(3, 1, 3, 1), padding=(1, 0), groups=3)),
    "pointwise": (lambda x: kernels.pointwise_conv(x, tensor(4, 3, 1, 1)), lambda x: F.conv2d(x, tensor(4, 3, 1, 1))),
    "residual norm": (lambda x: kernels.residual_norm(x, 0.1, 1e-2), lambda x: plain_residual_norm(x, 0.1, 1e-2)),
    "relaxed norm": (lambda x: kernels.relaxed_norm(x, 0.3, 1e-2), lambda x: plain_relaxed_norm(x, 0.3, 1e-2)),
}


@pytest.mark.parametrize("shape", [(2, 3, 8, 5), (1, 3, 2, 4), (3, 3, 3, 1)])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, shape):
    ours, plain = CASES[name]
    x, gradient = tensor(*shape), torch.randn_like(ours(tensor(*shape)))
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(torch.autograd.grad(ours(x), x, gradient), torch.autograd.grad(plain(x), x, gradient))
    # a gradient that is not contiguous, as that of a transposed output
    turned = gradient.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(torch.autograd.grad(ours(x), x, turned), torch.autograd.grad(plain(x), x, gradient))


@pytest.mark.parametrize(("kernel", "shape", "padding", "groups"), [
    (kernels.frequency_conv, (3, 1, 3, 1), (1, 0), 3), (kernels.pointwise_conv, (4, 3, 1, 1), 0, 1)])
def test_gradients_of_the_weights(kernel, shape, padding, groups):
    x, weight = tensor(2, 3, 8, 5), tensor(*shape, seed=1)
    gradient = torch.randn_like(kernel(x, weight))
    plain = F.conv2d(x, weight, padding=padding, groups=groups)
    torch.testing.assert_close(torch.autograd.grad(kernel(x, weight), weight, gradient),
                               torch.autograd.grad(plain, weight, gradient))


NORMS = {"residual": (residual_norm, plain_residual_norm), "relaxed": (relaxed_norm, plain_relaxed_norm)}


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_of_lambda(norm):
    x, weight = tensor(2, 3, 8, 5), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(x)
    ours, plain = (function(x, weight, 1e-2) for function in NORMS[norm])
    torch.testing.assert_close(torch.autograd.grad(ours, weight, gradient),
                               torch.autograd.grad(plain, weight, gradient))


@pytest.mark.parametrize("norm", NORMS)
def test_norms_elsewhere(monkeypatch, norm):
    monkeypatch.setattr(kernels, "applies", lambda x: False)
    x, (ours, plain) = tensor(2, 3, 8, 5), NORMS[norm]
    torch.testing.assert_close(ours(x, 0.1, 1e-2), plain(x, 0.1, 1e-2))


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_values_far_from_zero(norm):
    """The variance is not a small difference of large squares."""
    x, (ours, plain) = 1000 + torch.randn(4, 3, 8, 50, generator=torch.Generator().manual_seed(0)), NORMS[norm]
    assert (ours(x, 0.1, 1e-5) - plain(x.double(), 0.1, 1e-5)).abs().max() < 1e-3


@pytest.fixture
def used(monkeypatch):
    """Names of the functions that layers call."""
    names = []
    for name in ("frequency_conv", "pointwise_conv"):
        monkeypatch.setattr(kernels, name, lambda x, weight, name=name: names.append(name) or x)
    return names


@pytest.mark.parametrize(("channels", "expected"), [(10, ["frequency_conv", "pointwise_conv"]),
                                                    (16, ["pointwise_conv"])])
def test_layers_that_use_kernels(used, channels, expected):
    x = torch.randn(2, channels, 8, 5)
    FrequencyConv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels, bias=False)(x)
    PointwiseConv2d(channels, channels, 1, bias=False)(x)
    assert used == expected


@pytest.mark.parametrize("x", [torch.randn(2, 3, 8, 5).to(memory_format=torch.channels_last),
                               torch.randn(2, 3, 8, 5).half(),
                               torch.empty(2, 3, 8, 5, device="meta")], ids=["channels last", "half", "meta"])
def test_other_tensors(used, x):
    layer = FrequencyConv2d(3, 3, (3, 1), padding=(1, 0), groups=3, bias=False).to(x.device, x.dtype)
    assert layer(x).shape == x.shape and not used


def test_autocast_and_tracing(used):
    x, layer = torch.randn(2, 3, 8, 5), PointwiseConv2d(3, 3, 1, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.export.export(nn.Sequential(layer), (x,))
    assert not used
