"""BC-ResNet-ASC rewritten for inference on a CPU: the same outputs, up to rounding, in fewer passes over less memory.

A map is [F, N, T, C], so that one frequency of all clips is a row of contiguous memory. Then the 1x1 convolutions are
products of matrices, and a convolution over frequency is a sum of rows. Of the norms, batch norms are in the
convolutions before them (:mod:`task1a.compression.fold`); the scale of a sub-spectral norm is in the weights of its
convolution, which differ between sub-bands then, and so is the residual connection, as 1 in the middle weight. Where a
map does not fit the caches of a core, it is computed in pieces of some rows, each by several operations.
"""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.models.bcresnet import BCResBlock
from task1a.models.bcresnet_asc import BCResNetASC
from task1a.models.front_end import WithFrontEnd
from task1a.models.normalization import ResidualNorm, relaxed_norm

# measured on a core with a second-level cache of 512 kB: products of matrices want their operands there, while smaller
# pieces of the other operations, which read memory in order, cost more in calls than they save
_PRODUCT_BYTES = 1 << 19
_ROWS_BYTES = 1 << 21


def inference_form(model: nn.Module, input_shape: tuple[int, int, int]) -> nn.Module:
    """A network in evaluation mode, with its batch norms folded, in the form that is fastest on a CPU.

    Networks other than BC-ResNet-ASC are returned as they are. Tensors may be shared with the given model.

    Args:
        model: the network, behind its front end if it has one.
        input_shape: (1, mel bins, frames) of one clip.
    """
    if isinstance(model, WithFrontEnd):
        return WithFrontEnd(model.front_end, inference_form(model.network, input_shape)).eval()
    return InferenceForm(model, input_shape) if isinstance(model, BCResNetASC) else model


class InferenceForm(nn.Module):
    """A BC-ResNet-ASC with folded batch norms, for inference only, on clips of one length.

    Shape: log-mel energies [N, 1, F, T] -> logits [N, classes].
    """

    def __init__(self, model: BCResNetASC, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        _, f, t = input_shape
        f, t = f // 2, (t + 1) // 2
        self.input_norm = model.input_norm
        self.stem = _Product(model.stem[0])
        self.stages, self.stage_norms = nn.ModuleList(), model.stage_norms
        for number, stage in enumerate(model.stages):
            self.stages.append(nn.ModuleList(_Block(block, f, t) for block in stage))
            if number < 2:
                f, t = f // 2, t // 2
        self.head = _Product(model.head)
        self.eval()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        # clips of few frames are computed together
        first = self.stages[0][0]
        largest = first.f * first.t * first.channels * x.element_size()
        return torch.cat([self._logits(clips) for clips in x.split(max(1, _ROWS_BYTES // largest))])

    def _logits(self, clips: Tensor) -> Tensor:
        x = _normalized(clips.permute(2, 0, 3, 1), self.input_norm).squeeze(3)
        patches = F.pad(x, (2, 2, 0, 0, 2, 2)).unfold(0, 5, 2).unfold(2, 5, 2)  # [F / 2, N, T / 2, 5, 5]

        # the output of the stem, the largest of all maps, is never whole in memory
        def rows(first: int, last: int) -> Tensor:
            return self.stem(patches[first:last].reshape(-1, 25)).relu_()

        for number, (stage, norm) in enumerate(zip(self.stages, self.stage_norms, strict=True)):
            x = stage[0].expanded(rows, len(clips))
            for block in stage:
                x = block(x)
            x = _pooled(x, norm) if number < 2 else _normalized(x[1:-1], norm)

            def rows(first: int, last: int, x: Tensor = x) -> Tensor:
                return x[first:last].flatten(0, 2)
        return self.head(x.mean(dim=0).mean(dim=1))  # linear, so the mean can be taken before it


class _Product(nn.Module):
    """A convolution as a product of matrices: the values under its kernel [positions, values] -> [positions, C]."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().flatten(1).t().contiguous())
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addmm(self.bias, values, self.weight, out=out)


class _Block(nn.Module):
    """A block of broadcasted residual learning with stride 1 and dilation 1, for ``f`` frequencies and ``t`` frames.

    A framed map has a row of zeros before the first and after the last frequency.

    Shape: framed map [F + 2, N, T, C], after the expansion -> the same.
    """

    def __init__(self, block: BCResBlock, f: int, t: int) -> None:
        super().__init__()
        self.f, self.t, self.channels = f, t, block.mix.out_channels
        self.expand = None if block.expand is None else _Product(block.expand[0])
        self.bands = block.frequency_norm.sub_bands
        norm = block.frequency_norm.norm
        scale, shift = (value.detach().view(-1, self.bands).t() for value in (norm.weight, norm.bias))
        above, centre, below = block.frequency_conv.weight.detach().view(-1, 3).t().unsqueeze(1) * scale  # [bands, C]
        self.register_buffer("shift", shift.unsqueeze(1).contiguous())

        # The mean of the outputs over frequency is linear in the sums of the bands and in the rows at their borders:
        # the sum over x_{f-1} is that over x_f, without the last row of the band and with that of the band before.
        nothing = torch.zeros_like(above[:1])
        of_last = torch.cat([above[1:], nothing]) - above
        of_first = torch.cat([nothing, below[:-1]]) - below
        mean_weight = torch.cat([above + centre + below, of_first, of_last]) / f
        self.register_buffer("mean_weight", mean_weight.view(3 * self.bands, 1, 1, -1))
        self.register_buffer("mean_shift", shift.mean(dim=0))

        # a factor for every value of a row of a clip, because short loops over the channels would be slow
        residual = 1 if self.expand is None else 0
        weight = torch.stack([above, centre + residual, below])
        self.register_buffer("weight", weight.repeat(1, 1, t).view(3, self.bands, 1, 1, -1))
        self.register_buffer("time_weight", block.time_conv.weight.detach().view(-1, 3).t().contiguous())
        self.register_buffer("time_bias", block.time_conv.bias.detach())
        self.register_buffer("mix", block.mix.weight.detach().flatten(1).t().contiguous())

    def expanded(self, rows: Callable[[int, int], Tensor], clips: int) -> Tensor:
        """1x1 convolution and ReLU of a map of which ``rows`` gives some rows as [positions, channels].

        Shape: -> framed map [F + 2, N, T, C].
        """
        y = self._framed(clips)
        row_bytes = clips * self.t * len(self.expand.weight) * y.element_size()
        for first, last in _pieces(self.f, row_bytes, _PRODUCT_BYTES):
            self.expand(rows(first, last), out=y[1 + first:1 + last].view(-1, self.channels)).relu_()
        return y

    def forward(self, x: Tensor) -> Tensor:
        n, size = x.shape[1], self.f // self.bands
        bands = x[1:-1].view(self.bands, size, n, self.t, self.channels)
        sums = torch.cat([bands.sum(dim=1), bands[:, 0], bands[:, -1]])
        pooled = (sums * self.mean_weight).sum(dim=0).add_(self.mean_shift)

        padded = F.pad(pooled, (0, 0, 1, 1))
        z = self.time_bias
        for tap in range(3):
            z = torch.addcmul(z, padded[:, tap:tap + self.t], self.time_weight[tap])
        broadcast = F.silu(z).view(-1, self.channels) @ self.mix
        constant = (broadcast + self.shift).view(self.bands, 1, n, -1)

        y = self._framed(n)
        out, rows = y[1:-1].flatten(2), x.flatten(2)
        for first, last in _pieces(self.bands, size * rows[0].nbytes, _ROWS_BYTES):
            shape = last - first, size, n, -1
            start, end = first * size, last * size
            above, centre, below = (rows[start + k:end + k].view(shape) for k in range(3))
            weight = self.weight[:, first:last]
            piece = torch.addcmul(constant[first:last], above, weight[0], out=out[start:end].view(shape))
            piece.addcmul_(centre, weight[1]).addcmul_(below, weight[2]).relu_()
        return y

    def _framed(self, clips: int) -> Tensor:
        """A framed map of undefined values."""
        y = self.mix.new_empty(self.f + 2, clips, self.t, self.channels)
        y[::self.f + 1].zero_()
        return y


def _normalized(x: Tensor, norm: nn.Module) -> Tensor:
    """ResNorm of a map or, unless it is relaxed, of some of its rows; the identity if the network has none here."""
    if isinstance(norm, nn.Identity):
        return x
    if norm.norm is relaxed_norm:
        return _relaxed(x, norm)
    return F.layer_norm(x, x.shape[2:], eps=norm.eps).add_(x, alpha=float(norm.shortcut))


def _relaxed(x: Tensor, norm: ResidualNorm) -> Tensor:
    """The relaxed norm of a map, whose statistics follow from those of its rows."""
    each, means, scales = torch.native_layer_norm(x, x.shape[2:], None, None, norm.eps)
    mean = means.mean(dim=0, keepdim=True)
    variance = scales.pow(-2).sub_(norm.eps).add_((means - mean).square())
    share = float(norm.shortcut)
    whole = torch.rsqrt(variance.mean(dim=0, keepdim=True) + norm.eps).mul_(share)
    return torch.addcmul(-mean * whole, x, whole).add_(each, alpha=1 - share)


def _pooled(x: Tensor, norm: nn.Module) -> Tensor:
    """ResNorm and 2x2 max-pool: framed map [F + 2, N, T, C] -> [F / 2, N, T / 2, C]."""
    f, n, t, c = len(x) // 2 - 1, x.shape[1], x.shape[2] // 2, x.shape[3]
    y = x.new_empty(f, n, t, c)
    piece_bytes = _ROWS_BYTES // 2
    if isinstance(norm, ResidualNorm) and norm.norm is relaxed_norm:
        piece_bytes = x.nbytes  # its statistics are those of all rows
    for first, last in _pieces(f, 2 * x[0].nbytes, piece_bytes):
        rows = _normalized(x[1 + 2 * first:1 + 2 * last], norm)
        rows = torch.maximum(rows[0::2], rows[1::2])
        torch.maximum(rows[:, :, 0:2 * t:2], rows[:, :, 1:2 * t:2], out=y[first:last])
    return y


def _pieces(rows: int, row_bytes: int, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) row of every piece of at most ``piece_bytes``, but of at least one row."""
    size = max(1, piece_bytes // row_bytes)
    for first in range(0, rows, size):
        yield first, min(first + size, rows)
