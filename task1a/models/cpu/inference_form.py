"""BC-ResNet-ASC rewritten for inference on a CPU: the same outputs, up to rounding, in fewer passes
over less memory.

A map of activations is [F, N, T, C], so that one frequency of all clips is a row of contiguous
memory. Then a 1x1 convolution is a product of matrices, and a convolution over frequency is a
weighted sum of neighbouring rows.

Norms and residual connections take no passes of their own. Batch norms are folded into the
preceding convolutions (:mod:`task1a.compression.fold`). The scale of a sub-spectral norm is folded
into the depthwise convolution, which then has one weight per sub-band; the residual connection is
folded in as +1 at its centre. With w the folded weights, v the shift of the sub-spectral norm and x
the input of a block after its expansion,

    y_f = ReLU(w_0 x_{f-1} + (w_1 + 1) x_f + w_2 x_{f+1} + v + broadcast),

where the broadcast, the branch over time, depends on the mean over frequency alone. A map that does
not fit the caches of a core is computed in pieces of some rows, and all operations on a piece
follow each other.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.models.bcresnet import BCResBlock
from task1a.models.bcresnet_asc import BCResNetASC
from task1a.models.front_end import WithFrontEnd
from task1a.models.normalization import ResidualNorm, relaxed_norm

# Sizes of a piece, measured on a core with a second-level cache of 512 kB. Products of matrices
# read their operands several times, so these should fit. The other operations read memory once and
# in order; smaller pieces would cost more in calls than they save.
_PRODUCT_BYTES = 1 << 19
_ROWS_BYTES = 1 << 21

_Rows = Callable[[int, int], Tensor]
"""gives the rows of a map from a first to a last one (exclusive), as [positions, channels]"""


def inference_form(model: nn.Module, input_shape: tuple[int, int, int]) -> nn.Module:
    """A network in evaluation mode, with its batch norms folded, in the form that is fastest on a
    CPU.

    Networks other than BC-ResNet-ASC are returned as they are. Tensors may be shared with the given
    model.

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

    input_norm: nn.Module

    def __init__(self, model: BCResNetASC, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        _, f, t = input_shape
        f, t = f // 2, (t + 1) // 2
        self.input_norm = model.input_norm
        self.stem = _Product(cast(nn.Conv2d, model.stem[0]))
        self.stages, self.stage_norms = nn.ModuleList(), model.stage_norms
        for number, stage in enumerate(model.stages):
            blocks = cast(Iterable[BCResBlock], stage)
            self.stages.append(nn.ModuleList(_Block(block, f, t) for block in blocks))
            if number < 2:
                f, t = f // 2, t // 2
        self.head = _Product(model.head)
        # the first stage has the largest maps, because they have not been pooled yet
        first = cast(Sequence[_Block], self.stages[0])[0]
        self.largest = first.f * first.t * first.channels
        self.eval()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        # As many clips at a time as fill a piece with the largest map: short clips share the costs
        # of the calls, and long ones stay in the cache.
        clips = max(1, _ROWS_BYTES // (self.largest * x.element_size()))
        return torch.cat([self._logits(part) for part in x.split(clips)])

    def _logits(self, clips: Tensor) -> Tensor:
        x = _normalize(clips.permute(2, 0, 3, 1), self.input_norm).squeeze(3)
        patches = F.pad(x, (2, 2, 0, 0, 2, 2)).unfold(0, 5, 2).unfold(2, 5, 2)  # [F / 2, N, T / 2, 5, 5]

        # The output of the stem is the largest of all maps, with 25 times its size in patches.
        # Neither is in memory as a whole, because the first expansion asks for the rows that it
        # needs.
        def stem_rows(first: int, last: int) -> Tensor:
            return self.stem(patches[first:last].reshape(-1, 25)).relu_()

        rows: _Rows = stem_rows
        for number, (stage, norm) in enumerate(zip(self.stages, self.stage_norms, strict=True)):
            blocks = cast(Sequence[_Block], stage)
            x = blocks[0].expand_rows(rows, len(clips))
            for block in blocks:
                x = block(x)
            x = _pool(x, norm) if number < 2 else _normalize(x[1:-1], norm)
            rows = partial(_flat_rows, x)
        return self.head(x.mean(dim=0).mean(dim=1))  # linear, so the mean can be taken before it


def _flat_rows(x: Tensor, first: int, last: int) -> Tensor:
    return x[first:last].flatten(0, 2)


class _Product(nn.Module):
    """A convolution as a product of matrices.

    Shape: the values under its kernel [positions, values] -> [positions, C].
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().flatten(1).t().contiguous())
        assert conv.bias is not None, "the norm behind it must be folded"
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addmm(self.bias, values, self.weight, out=out)


class _Block(nn.Module):
    """A block of broadcasted residual learning with stride 1 and dilation 1, for ``f`` frequencies
    and ``t`` frames.

    A framed map has a row of zeros before the first and after the last frequency.

    Shape: framed map [F + 2, N, T, C], after the expansion -> the same.
    """

    shift: Tensor
    mean_weight: Tensor
    mean_shift: Tensor
    weight: Tensor
    time_weight: Tensor
    time_bias: Tensor
    mix: Tensor

    def __init__(self, block: BCResBlock, f: int, t: int) -> None:
        super().__init__()
        self.f, self.t, self.channels = f, t, block.mix.out_channels
        self.expand = None if block.expand is None else _Product(cast(nn.Conv2d, block.expand[0]))
        self.bands = block.frequency_norm.sub_bands
        norm = block.frequency_norm.norm
        scale = norm.weight.detach().view(-1, self.bands).t()
        shift = norm.bias.detach().view(-1, self.bands).t()
        above, centre, below = block.frequency_conv.weight.detach().view(-1, 3).t().unsqueeze(1) * scale  # [bands, C]
        self.register_buffer("shift", shift.unsqueeze(1).contiguous())

        # The branch over time needs the mean of the convolution's outputs over frequency, before
        # they are computed. It is linear in the sum S_b of the rows of each band b and in the first
        # and last row of the bands, A_b and Z_b. In band b, the sum of x_{f-1} is S_b - Z_b +
        # Z_{b-1} and that of x_{f+1} is S_b - A_b + A_{b+1}. So S_b has the weight w_0b + w_1b +
        # w_2b, A_b has w_2,b-1 - w_2b, and Z_b has w_0,b+1 - w_0b, where w is 0 beyond the first
        # and the last band.
        nothing = torch.zeros_like(above[:1])
        last_weight = torch.cat([above[1:], nothing]) - above
        first_weight = torch.cat([nothing, below[:-1]]) - below
        mean_weight = torch.cat([above + centre + below, first_weight, last_weight]) / f
        self.register_buffer("mean_weight", mean_weight.view(3 * self.bands, 1, 1, -1))
        self.register_buffer("mean_shift", shift.mean(dim=0))

        # The weights are repeated for all T frames, so that torch multiplies whole rows of T C
        # values; a loop over few channels, with the weights broadcast, does not fill its vectors.
        # Only blocks that keep the number of channels have a residual connection.
        residual = 1 if self.expand is None else 0
        weight = torch.stack([above, centre + residual, below])
        self.register_buffer("weight", weight.repeat(1, 1, t).view(3, self.bands, 1, 1, -1))
        self.register_buffer("time_weight", block.time_conv.weight.detach().view(-1, 3).t().contiguous())
        assert block.time_conv.bias is not None, "the norm behind it must be folded"
        self.register_buffer("time_bias", block.time_conv.bias.detach())
        self.register_buffer("mix", block.mix.weight.detach().flatten(1).t().contiguous())

    def expand_rows(self, rows: _Rows, clips: int) -> Tensor:
        """Return 1x1 convolution and ReLU of a map, of which ``rows`` gives a range of rows as
        [positions, channels].

        Shape: -> framed map [F + 2, N, T, C].
        """
        y = self._framed(clips)
        assert self.expand is not None, "only blocks that widen the map expand it"
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
        """Return a framed map of undefined values, so that a convolution finds zeros at its
        borders."""
        y = self.mix.new_empty(self.f + 2, clips, self.t, self.channels)
        y[::self.f + 1].zero_()
        return y


def _normalize(x: Tensor, norm: nn.Module) -> Tensor:
    """Return ResNorm of a map or, unless it is relaxed, of some of its rows; the same map if it has
    no norm here.

    A row of a clip is one frequency, so frequency-wise normalization is layer normalization over
    its T C values.
    """
    if not isinstance(norm, ResidualNorm):
        return x
    if norm.norm is relaxed_norm:
        return _relaxed(x, norm)
    return F.layer_norm(x, x.shape[2:], eps=norm.eps).add_(x, alpha=float(norm.shortcut))


def _relaxed(x: Tensor, norm: ResidualNorm) -> Tensor:
    """Return the relaxed norm of a map.

    The variance over all frequencies is the mean of var_f + (mean_f - mean)^2, and
    native_layer_norm returns 1 / sqrt(var_f + eps) of every row, so no second pass is needed for
    the statistics.
    """
    each, means, scales = torch.native_layer_norm(x, x.shape[2:], None, None, norm.eps)
    mean = means.mean(dim=0, keepdim=True)
    variance = scales.pow(-2).sub_(norm.eps).add_((means - mean).square())
    share = float(norm.shortcut)
    whole = torch.rsqrt(variance.mean(dim=0, keepdim=True) + norm.eps).mul_(share)
    return torch.addcmul(-mean * whole, x, whole).add_(each, alpha=1 - share)


def _pool(x: Tensor, norm: nn.Module) -> Tensor:
    """Return ResNorm and 2x2 max-pool of a framed map [F + 2, N, T, C] as [F / 2, N, T / 2, C]."""
    f, n, t, c = len(x) // 2 - 1, x.shape[1], x.shape[2] // 2, x.shape[3]
    y = x.new_empty(f, n, t, c)
    piece_bytes = _ROWS_BYTES // 2
    if isinstance(norm, ResidualNorm) and norm.norm is relaxed_norm:
        piece_bytes = x.nbytes  # its statistics are those of all rows
    for first, last in _pieces(f, 2 * x[0].nbytes, piece_bytes):
        rows = _normalize(x[1 + 2 * first:1 + 2 * last], norm)
        rows = torch.maximum(rows[0::2], rows[1::2])
        torch.maximum(rows[:, :, 0:2 * t:2], rows[:, :, 1:2 * t:2], out=y[first:last])
    return y


def _pieces(rows: int, row_bytes: int, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield first and last (exclusive) row of every piece of at most ``piece_bytes``, but of at
    least one row."""
    size = max(1, piece_bytes // row_bytes)
    for first in range(0, rows, size):
        yield first, min(first + size, rows)
