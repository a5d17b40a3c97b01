import numpy as np
import pytest
import torch
from scipy import stats

from task1a.models.mixstyle import FreqMixStyle, mix_statistics


@pytest.fixture
def x():
    return torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1


def statistics(x):
    """Mean and deviation of each clip and frequency, by NumPy."""
    values = np.moveaxis(x.numpy(), 2, 1).reshape(len(x), x.shape[2], -1)
    return values.mean(axis=2), values.std(axis=2)


def test_mixed_statistics(x):
    weights, partners = np.array([0.2, 0.7, 1.0]), [1, 2, 0]
    means, deviations = statistics(x)
    y = mix_statistics(x, torch.from_numpy(weights), torch.tensor(partners), eps=0)
    own = weights[:, None]
    found = statistics(y)
    np.testing.assert_allclose(found[0], own * means + (1 - own) * means[partners])
    np.testing.assert_allclose(found[1], own * deviations + (1 - own) * deviations[partners])


def test_rest_without_statistics(x):
    y = mix_statistics(x, torch.full((3,), 0.3, dtype=torch.float64), torch.tensor([2, 0, 1]), eps=0)

    def standardised(values):
        mean, deviation = statistics(values)
        return (values.numpy() - mean[:, None, :, None]) / deviation[:, None, :, None]
    np.testing.assert_allclose(standardised(y), standardised(x))


def test_no_gradient_flows_into_the_statistics(x):
    """The gradient of a clip's output is that of a factor alone: deviations mixed over its own deviation."""
    x.requires_grad_()
    weights, partners = torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64), torch.tensor([1, 2, 0])
    gradient, = torch.autograd.grad(mix_statistics(x, weights, partners, eps=0).sum(), x)
    _, deviations = statistics(x.detach())
    own = weights.numpy()[:, None]
    factor = (own * deviations + (1 - own) * deviations[partners]) / deviations
    np.testing.assert_allclose(gradient, np.broadcast_to(factor[:, None, :, None], x.shape))


def test_mixing_probability():
    x, layer, mixed = torch.randn(32, 1, 2, 3), FreqMixStyle(0.3, 0.4), 0
    torch.manual_seed(0)
    for _ in range(300):
        mixed += not torch.equal(layer(x), x)
    assert stats.binomtest(mixed, 300, 0.3).pvalue > 1e-4
    always = FreqMixStyle(1.0, 0.4)
    assert torch.equal(always.eval()(x), x) and not torch.equal(always.train()(x), x)


def test_weights_are_of_the_beta_distribution():
    """Clips of the means 0 and 1 show the weights of their statistics."""
    torch.manual_seed(0)
    layer, weights = FreqMixStyle(1.0, 0.4), []
    for _ in range(200):
        y = layer(torch.tensor([0.0, 1.0] * 4).view(8, 1, 1, 1).expand(8, 1, 1, 3))
        means = y.mean(dim=(1, 2, 3))
        moved = (means - torch.tensor([0.0, 1.0] * 4)).abs()
        weights += (1 - moved[moved > 0]).tolist()
    assert len(weights) > 200
    # a weight that float32 rounds to 1 moves nothing and is missing, so the distribution is that of the others
    assert stats.kstest(weights, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
