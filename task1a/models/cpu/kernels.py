"""Layers of the networks for training on a CPU, where most of the time goes into reading and
writing memory.

The functions here compute the same as torch's own, up to rounding, in fewer passes over contiguous
memory. Their gradients are written by hand, because autograd would save and read every intermediate
result. Where they do not apply (:func:`applies`), the layers are torch's.
"""
from typing import Any

import torch
from torch import Tensor, nn

# torch's depthwise convolution computes 16 channels at once. It is fast if they fill its blocks;
# otherwise frequency_conv is faster
_BLOCK = 16


def applies(x: Tensor) -> bool:
    """Return whether the functions here apply to a tensor.

    They are for single and double precision on a CPU, and for contiguous memory, because they take
    views of it. An exported or compiled model needs torch's operations, which the exporter knows.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return (x.device.type == "cpu" and x.is_contiguous() and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu") and not traced)


class FrequencyConv2d(nn.Conv2d):
    """A depthwise convolution of kernel 3x1, padding 1 and no dilation.

    Shape: [N, C, F, T] -> [N, C, F / stride, T].
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = self.stride == (1, 1) and self.bias is None and x.shape[2] > 1
        if plain and self.in_channels % _BLOCK and applies(x):
            return frequency_conv(x, self.weight)
        return super().forward(x)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution.

    Shape: [N, C, F, T] -> [N, C', F, T].
    """

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_conv(x, self.weight) if applies(x) and self.bias is None else super().forward(x)


def frequency_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve every channel over frequency: y_f = w_0 x_{f-1} + w_1 x_f + w_2 x_{f+1}, where x is
    0 outside.

    Shape: x [N, C, F, T] with F > 1, weight [C, 1, 3, 1] -> [N, C, F, T].
    """
    return _FrequencyConv.apply(x, weight)


def pointwise_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Mix the channels of every position, as a product of matrices.

    Shape: x [N, C, F, T], weight [C', C, 1, 1] -> [N, C', F, T].
    """
    n, _, f, t = x.shape
    return _Pointwise.apply(x.flatten(2), weight.flatten(1)).view(n, -1, f, t)


def residual_norm(x: Tensor, shortcut: float | Tensor, eps: float) -> Tensor:
    """See :func:`task1a.models.normalization.residual_norm`."""
    return _ResidualNorm.apply(x, torch.as_tensor(shortcut, dtype=x.dtype), eps)


def relaxed_norm(x: Tensor, share: float | Tensor, eps: float) -> Tensor:
    """See :func:`task1a.models.normalization.relaxed_norm`."""
    return _RelaxedNorm.apply(x, torch.as_tensor(share, dtype=x.dtype), eps)


class _FrequencyConv(torch.autograd.Function):
    """With the gradient g of y: dx_f = w_2 g_{f-1} + w_1 g_f + w_0 g_{f+1}, the same convolution
    with the kernel reversed, and dw_k = sum g_f x_{f+k-1} over clips, frequencies and frames."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _sum_neighbours(x, *weight.view(-1, 3, 1, 1).unbind(1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        above, centre, below = weight.view(-1, 3, 1, 1).unbind(1)
        grad_x = _sum_neighbours(gradient, below, centre, above)

        # Each channel of a clip is F rows of T values, one after the other. Row k of ``inner`` is x
        # shifted by k rows, so its product with g of the inner frequencies is dw_k. The three views
        # overlap; nothing is copied.
        n, c, f, t = x.shape
        x, gradient = x.view(n * c, f * t), gradient.view(n * c, f * t, 1)
        inner = x.as_strided((n * c, 3, (f - 2) * t), (f * t, t, 1))
        grad_weight = torch.bmm(inner, gradient[:, t:-t])
        # the first frequency has no neighbour above, and the last none below
        grad_weight[:, 1:] += torch.bmm(x[:, :2 * t].view(-1, 2, t), gradient[:, :t])
        grad_weight[:, :-1] += torch.bmm(x[:, -2 * t:].view(-1, 2, t), gradient[:, -t:])
        return grad_x, grad_weight.view(n, c, 3).sum(0).view(weight.shape)


class _Pointwise(torch.autograd.Function):
    """y = W x for every clip; with the gradient g of y, dx = W' g and dW = sum g x' over the
    clips."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(weight.expand(len(x), -1, -1), x)  # matmul would copy x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = torch.bmm(weight.t().expand(len(x), -1, -1), gradient)
        return grad_x, torch.bmm(gradient, x.transpose(1, 2)).sum(0)


class _ResidualNorm(torch.autograd.Function):
    """y = lambda x + z, with z = s (x - mean) and s = 1 / sqrt(variance + eps).

    With the gradient g of y, and sums over the M values of an example and frequency:
    dx = (s + lambda) g - s (sum(g) + z sum(g z)) / M, and d lambda = sum(g x) over everything.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor, eps: float) -> Tensor:
        mean, variance, centred = _centre(x)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, mean, scale, shortcut)
        # lambda x + s (x - mean) = lambda mean + (s + lambda) (x - mean), in the memory of x - mean
        return torch.addcmul(mean * shortcut, centred, scale + shortcut, out=centred)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, mean, scale, shortcut = ctx.saved_tensors
        count = x.shape[1] * x.shape[3]
        # z is not saved: sum(g z) = s (sum(g x) - mean sum(g)), and dx is affine in x, too:
        # dx = (s + lambda) g + factor x + constant, with factor = -s^2 sum(g z) / M
        sum_g = gradient.sum(dim=(1, 3), keepdim=True)
        sum_gx = (gradient * x).sum(dim=(1, 3), keepdim=True)
        sum_gz = scale * (sum_gx - mean * sum_g)
        factor = -scale.square() * sum_gz / count
        constant = -scale * sum_g / count - factor * mean
        grad_x = torch.addcmul(constant, x, factor).addcmul_(gradient, scale + shortcut)
        return grad_x, sum_gx.sum(), None


class _RelaxedNorm(torch.autograd.Function):
    """y = lambda z + (1 - lambda) z_f, with z_f = s_f (x - mean_f) of each frequency and z = s (x -
    mean) of all F.

    With the gradient g of y, and sums over the M values of an example and frequency:
    dx = (lambda s + (1 - lambda) s_f) g - (1 - lambda) s_f (sum(g) + z_f sum(g z_f)) / M
    - lambda s (sum_F(g) + z sum_F(g z)) / (F M), and d lambda = sum(g (z - z_f)) over everything.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, eps: float) -> Tensor:
        # the variance of all values is the mean variance of a frequency plus the variance of the
        # means
        means, variances, centred = _centre(x)
        mean = means.mean(dim=2, keepdim=True)
        variance = (variances + (means - mean).square()).mean(dim=2, keepdim=True)
        each, whole = torch.rsqrt(variances + eps), torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, means, each, mean, whole, share)
        # x - mean = (x - mean_f) + (mean_f - mean), so y is affine in the centred values
        return torch.addcmul(share * whole * (means - mean), centred, share * whole + (1 - share) * each, out=centred)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, means, each, mean, whole, share = ctx.saved_tensors
        bins, count = x.shape[2], x.shape[1] * x.shape[3]
        # as in _ResidualNorm: dx is affine in x and in g, and the sums with z and z_f follow from
        # those with x
        sum_g = gradient.sum(dim=(1, 3), keepdim=True)
        sum_gx = (gradient * x).sum(dim=(1, 3), keepdim=True)
        sum_gz_f = each * (sum_gx - means * sum_g)
        sum_gz = whole * (sum_gx - mean * sum_g).sum(dim=2, keepdim=True)
        factor_f = -(1 - share) * each.square() * sum_gz_f / count
        factor = -share * whole.square() * sum_gz / (bins * count)
        constant = (-(1 - share) * each * sum_g / count - factor_f * means - factor * mean
                    - share * whole * sum_g.sum(dim=2, keepdim=True) / (bins * count))
        grad_x = torch.addcmul(constant, x, factor_f + factor)
        grad_x.addcmul_(gradient, share * whole + (1 - share) * each)
        return grad_x, sum_gz.sum() - sum_gz_f.sum(), None


def _centre(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of every example and frequency [N, 1, F, 1], and x without the mean.

    The squares of centred values do not cancel, as E[x^2] - mean^2 would in single precision.
    """
    mean = x.mean(dim=(1, 3), keepdim=True)
    centred = x - mean
    return mean, centred.square().mean(dim=(1, 3), keepdim=True), centred


def _sum_neighbours(x: Tensor, above: Tensor, centre: Tensor, below: Tensor) -> Tensor:
    """Return above x_{f-1} + centre x_f + below x_{f+1}, with factors [C, 1, 1]."""
    y = x * centre
    y[:, :, 1:].addcmul_(x[:, :, :-1], above)
    y[:, :, :-1].addcmul_(x[:, :, 1:], below)
    return y
