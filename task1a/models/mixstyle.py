"""Freq-MixStyle: the frequency-wise statistics of a clip are mixed with those of another clip of
the batch.

This is MixStyle (Zhou et al., *Domain generalization with MixStyle*, ICLR 2021, eq. 3-6) with
statistics over channels and time instead of frequency and time (Schmid et al., *Knowledge
distillation from transformers for low-complexity acoustic scene classification*, DCASE 2022),
because these describe the recording device more than the scene.
"""
import torch
from torch import Tensor, nn


def mix_statistics(x: Tensor, weights: Tensor, partners: Tensor, eps: float = 1e-6) -> Tensor:
    """Give every clip a mixture of its own frequency-wise mean and deviation and those of its
    partner.

    z = (x - mean) / deviation, y = (w d + (1 - w) d') z + w m + (1 - w) m', where m and d are the
    mean and the deviation of a clip and frequency over channels and time, m' and d' those of the
    partner. No gradient flows into the statistics.

    Args:
        x: activations [N, C, F, T].
        weights: weight w of each clip's own statistics [N].
        partners: index of each clip's partner [N].
        eps: added to the variance.

    Returns:
        [N, C, F, T].
    """
    variance, mean = torch.var_mean(x.detach(), dim=(1, 3), correction=0, keepdim=True)
    deviation = torch.sqrt(variance + eps)
    own = weights.to(x.dtype).view(-1, 1, 1, 1)
    # one pass over x: y = factor x + (mixed mean - factor mean)
    factor = torch.lerp(deviation[partners], deviation, own) / deviation
    return torch.addcmul(torch.lerp(mean[partners], mean, own) - mean * factor, x, factor)


class FreqMixStyle(nn.Module):
    """:func:`mix_statistics` for a batch in training, with a probability; otherwise the identity.

    Args:
        probability: probability that a batch is mixed.
        alpha: both parameters of the Beta distribution of the weights.

    Shape: [N, C, F, T] -> the same.
    """

    def __init__(self, probability: float, alpha: float) -> None:
        super().__init__()
        self.probability = probability
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        # drawn on the CPU, so that nothing waits for a GPU
        if not self.training or torch.rand(()) >= self.probability:
            return x
        alpha = torch.full((len(x),), self.alpha, device=x.device)
        weights = torch.distributions.Beta(alpha, alpha, validate_args=False).sample()
        return mix_statistics(x, weights, torch.randperm(len(x), device=x.device))

    def extra_repr(self) -> str:
        return f"probability={self.probability}, alpha={self.alpha}"
