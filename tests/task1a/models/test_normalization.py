import numpy as np
import pytest
import torch
from torch import nn

from task1a.models.normalization import ResidualNorm, SubSpectralNorm, relaxed_norm, residual_norm


def equations_1_to_3(x: np.ndarray, shortcut: float, eps: float) -> np.ndarray:
    """ResNorm written out example by example and frequency by frequency, as the paper's equations are."""
    y = np.empty_like(x)
    clips, channels, bins, frames = x.shape
    for n in range(clips):
        for f in range(bins):
            values = x[n, :, f, :]
            mean = values.sum() / (channels * frames)
            variance = ((values - mean) ** 2).sum() / (channels * frames)
            y[n, :, f, :] = shortcut * values + (values - mean) / np.sqrt(variance + eps)
    return y


@pytest.mark.parametrize("shortcut", [0.1, 0.0, 1.0])
def test_residual_norm_by_equation(shortcut):
    x = np.random.default_rng(0).normal(-3, 5, (3, 4, 6, 7))
    y = residual_norm(torch.from_numpy(x), shortcut, 1e-5)
    np.testing.assert_allclose(y.numpy(), equations_1_to_3(x, shortcut, 1e-5), rtol=1e-12, atol=1e-12)


def test_frequency_response_disappears():
    x = torch.randn(2, 1, 8, 50, dtype=torch.float64)
    response = torch.linspace(-20, 20, 8, dtype=torch.float64)[:, None]  # additive in the log-mel domain
    torch.testing.assert_close(residual_norm(x + response, 0.0, 1e-5), residual_norm(x, 0.0, 1e-5), atol=1e-10, rtol=0)
    assert not torch.allclose(residual_norm(x + response, 0.1, 1e-5), residual_norm(x, 0.1, 1e-5), atol=0.1)


def test_half_precision_inputs():
    layer = ResidualNorm(0.1, 1e-5)
    assert not list(layer.parameters()) and not list(layer.buffers())
    x = (1000 + torch.randn(1, 2, 4, 9)).to(torch.bfloat16)
    torch.testing.assert_close(layer(x), residual_norm(x.float(), 0.1, 1e-5))


def test_gradient():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(residual_norm, (x, 0.1, 1e-5))


def test_relaxed_norm_by_equation():
    """Layer norm as torch computes it, and frequency-wise instance norm as equations 1 to 3 do."""
    x = np.random.default_rng(0).normal(-3, 5, (3, 4, 6, 7))
    whole = nn.functional.layer_norm(torch.from_numpy(x), x.shape[1:], eps=1e-5).numpy()
    expected = 0.3 * whole + 0.7 * equations_1_to_3(x, 0.0, 1e-5)
    np.testing.assert_allclose(relaxed_norm(torch.from_numpy(x), 0.3, 1e-5).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["residual", "relaxed"])
def test_learned_shortcut(form):
    layer, fixed = ResidualNorm(0.1, 1e-2, form, learned=True).double(), ResidualNorm(0.1, 1e-2, form)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), fixed(x), rtol=1e-6, atol=1e-6)
    assert [parameter.shape for parameter in layer.parameters()] == [()]
    assert torch.autograd.gradcheck(lambda shortcut: layer.norm(x, shortcut, 1e-2), layer.shortcut)


@pytest.mark.parametrize("training", [True, False])
def test_sub_spectral_norm_by_band(training):
    channels, bands, height = 3, 4, 5
    norm = SubSpectralNorm(channels, bands).train(training)
    with torch.no_grad():
        for values in (norm.norm.weight, norm.norm.bias, norm.norm.running_mean):
            values.normal_()
        norm.norm.running_var.uniform_(0.5, 2)
    separate = [nn.BatchNorm2d(channels).train(training) for _ in range(bands)]
    for band, other in enumerate(separate):
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(other, name).data = getattr(norm.norm, name).detach().reshape(channels, bands)[:, band].clone()
    x = torch.randn(6, channels, bands * height, 7) * 3 + 1
    expected = torch.cat([other(x[:, :, k * height:(k + 1) * height]) for k, other in enumerate(separate)], dim=2)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)
    for band, other in enumerate(separate):
        torch.testing.assert_close(norm.norm.running_var.reshape(channels, bands)[:, band], other.running_var)


def test_sub_spectral_norm_indivisible():
    with pytest.raises(ValueError, match="10 frequencies do not divide into 4 sub-bands"):
        SubSpectralNorm(2, 4)(torch.zeros(1, 2, 10, 3))
