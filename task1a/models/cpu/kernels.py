"""Layers of the networks for training on a CPU, where most of the time goes into reading and writing memory.

The functions here compute the same as torch's own, up to rounding, in fewer passes over contiguous memory, with
hand-written gradients. The layers are those of torch wherever the functions do not apply: on other devices, under
autocast, in other memory formats, and when a model is traced.
"""
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK = 16  # channels that torch's depthwise convolution computes at once


def applies(x: Tensor) -> bool:
    """Whether the functions here apply to a tensor."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
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
    """Depthwise convolution y_f = w_0 x_{f-1} + w_1 x_f + w_2 x_{f+1} of every channel, where x is 0 outside.

    Shape: x [N, C, F, T] with F > 1, weight [C, 1, 3, 1] -> [N, C, F, T].
    """
    return _FrequencyConv.apply(x, weight)


def pointwise_conv(x: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution, as a product of matrices.

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
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _shifted(x, *weight.view(-1, 3, 1, 1).unbind(1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        above, centre, below = weight.view(-1, 3, 1, 1).unbind(1)
        of_x = _shifted(gradient, below, centre, above)

        n, c, f, t = x.shape
        x, gradient = x.view(n * c, f * t), gradient.view(n * c, f * t, 1)
        # row f of a channel starts t values after row f - 1, so its three neighbours overlap with those of the next row
        inner = x.as_strided((n * c, 3, (f - 2) * t), (f * t, t, 1))
        of_weight = torch.bmm(inner, gradient[:, t:-t])
        of_weight[:, 1:] += torch.bmm(x[:, :2 * t].view(-1, 2, t), gradient[:, :t])
        of_weight[:, :-1] += torch.bmm(x[:, -2 * t:].view(-1, 2, t), gradient[:, -t:])
        return of_x, of_weight.view(n, c, 3).sum(0).view(weight.shape)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(weight.expand(len(x), -1, -1), x)  # matmul would copy x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(weight.t().expand(len(x), -1, -1), gradient)
        return of_x, torch.bmm(gradient, x.transpose(1, 2)).sum(0)


class _ResidualNorm(torch.autograd.Function):
    """y = lambda x + z, with z = s (x - mean) and s = 1 / sqrt(variance + eps).

    With the gradient g of y, and sums over the M values of an example and frequency:
    dx = (s + lambda) g - s (sum(g) + z sum(g z)) / M, and d lambda = sum(g x) over everything.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor, eps: float) -> Tensor:
        mean, variance, centred = _centred(x)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, mean, scale, shortcut)
        return torch.addcmul(mean * shortcut, centred, scale + shortcut, out=centred)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, mean, scale, shortcut = ctx.saved_tensors
        count = x.shape[1] * x.shape[3]
        sum_g = gradient.sum(dim=(1, 3), keepdim=True)
        sum_gx = (gradient * x).sum(dim=(1, 3), keepdim=True)
        sum_gz = scale * (sum_gx - mean * sum_g)
        of_x = -scale.square() * sum_gz / count
        constant = -scale * sum_g / count - of_x * mean
        return torch.addcmul(constant, x, of_x).addcmul_(gradient, scale + shortcut), sum_gx.sum(), None


class _RelaxedNorm(torch.autograd.Function):
    """y = lambda z + (1 - lambda) z_f, with z_f = s_f (x - mean_f) of each frequency and z = s (x - mean) of all F.

    With the gradient g of y, and sums over the M values of an example and frequency:
    dx = (lambda s + (1 - lambda) s_f) g - (1 - lambda) s_f (sum(g) + z_f sum(g z_f)) / M
    - lambda s (sum_F(g) + z sum_F(g z)) / (F M), and d lambda = sum(g (z - z_f)) over everything.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, eps: float) -> Tensor:
        means, variances, centred = _centred(x)
        mean = means.mean(dim=2, keepdim=True)
        variance = (variances + (means - mean).square()).mean(dim=2, keepdim=True)
        each, whole = torch.rsqrt(variances + eps), torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, means, each, mean, whole, share)
        return torch.addcmul(share * whole * (means - mean), centred, share * whole + (1 - share) * each, out=centred)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, means, each, mean, whole, share = ctx.saved_tensors
        bins, count = x.shape[2], x.shape[1] * x.shape[3]
        sum_g = gradient.sum(dim=(1, 3), keepdim=True)
        sum_gx = (gradient * x).sum(dim=(1, 3), keepdim=True)
        sum_gz_f = each * (sum_gx - means * sum_g)
        sum_gz = whole * (sum_gx - mean * sum_g).sum(dim=2, keepdim=True)
        of_each = -(1 - share) * each.square() * sum_gz_f / count
        of_whole = -share * whole.square() * sum_gz / (bins * count)
        constant = (-(1 - share) * each * sum_g / count - of_each * means - of_whole * mean
                    - share * whole * sum_g.sum(dim=2, keepdim=True) / (bins * count))
        of_x = torch.addcmul(constant, x, of_each + of_whole)
        of_x.addcmul_(gradient, share * whole + (1 - share) * each)
        return of_x, sum_gz.sum() - sum_gz_f.sum(), None


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every example and frequency [N, 1, F, 1], and x without the mean."""
    mean = x.mean(dim=(1, 3), keepdim=True)
    centred = x - mean
    return mean, centred.square().mean(dim=(1, 3), keepdim=True), centred


def _shifted(x: Tensor, above: Tensor, centre: Tensor, below: Tensor) -> Tensor:
    """above x_{f-1} + centre x_f + below x_{f+1}, with factors [C, 1, 1]."""
    y = x * centre
    y[:, :, 1:].addcmul_(x[:, :, :-1], above)
    y[:, :, :-1].addcmul_(x[:, :, 1:], below)
    return y
