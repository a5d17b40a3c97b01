"""BC-ResNet, a network for keyword spotting with broadcasted residual learning.

Kim, Chang, Lee, Sung: *Broadcasted residual learning for efficient keyword spotting*, Interspeech
2021; the authors' code is https://github.com/Qualcomm-AI-research/bcresnet. BC-ResNet-ASC is built
from its blocks.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.models.cpu.kernels import FrequencyConv2d, PointwiseConv2d
from task1a.models.normalization import SubSpectralNorm


class BCResBlock(nn.Module):
    """One block of broadcasted residual learning.

    f2: [1x1 convolution, batch norm, ReLU where channels change,] 3x1 depthwise convolution,
    sub-spectral norm; f1: mean over frequency, 1x3 depthwise convolution, batch norm, SiLU, 1x1
    convolution, channel dropout; y = ReLU(f2(x) + f1(f2(x)) [+ x where channels do not change]), f1
    broadcast over frequency.

    The stride is that over frequency, and above 1 only where channels change; the dilation is that
    over time.

    Shape: [N, in_channels, F, T] -> [N, channels, F / stride, T].
    """

    def __init__(self, in_channels: int, channels: int, sub_bands: int, dropout: float, stride: int = 1,
                 dilation: int = 1) -> None:
        super().__init__()
        # f2, over frequency: the sub-spectral norm lets low and high sub-bands have other statistics
        self.expand = None
        if in_channels != channels:
            self.expand = nn.Sequential(
                PointwiseConv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.frequency_conv = FrequencyConv2d(channels, channels, (3, 1), stride=(stride, 1), padding=(1, 0),
                                              groups=channels, bias=False)
        self.frequency_norm = SubSpectralNorm(channels, sub_bands)
        # f1, over time: it sees the mean over frequency alone, so it costs 1 / F of f2
        self.time_conv = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation),
                                   groups=channels, bias=False)
        self.time_norm = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.frequency_norm(self.frequency_conv(y))
        pooled = y.mean(dim=2, keepdim=True)
        broadcast = self.dropout(self.mix(F.silu(self.time_norm(self.time_conv(pooled)))))
        y = y + broadcast
        if self.expand is None:
            y += x  # in place like the ReLU, because allocating and writing memory takes most of the time
        return F.relu(y, inplace=True)


class BCResNet(nn.Module):
    """BC-ResNet of any width.

    A 5x5 stem of stride 2 over frequency, four stages of (2, 2, 4, 4) blocks with c, 1.5c, 2c and
    2.5c channels for c = 8 tau, the second and the third with stride 2 over frequency, dilation 1,
    2, 4 and 8 over time; then a 5x5 depthwise and a 1x1 convolution to 4c channels, ReLU, the mean
    over frequency and time, and a 1x1 convolution to the classes. The batch norm before the last
    ReLU in the authors' code is omitted: with ten classes and 4 sub-bands, BC-ResNet-8 has 317,610
    parameters with it and 317,098, the published 317k, without it.

    Shape: log-mel energies [N, 1, F, T] -> logits [N, classes]. F is a multiple of 8 ``sub_bands``
    and at least 40.
    """

    blocks = (2, 2, 4, 4)
    widths = (1.0, 1.5, 2.0, 2.5)
    strides = (1, 2, 2, 1)

    def __init__(self, classes: int, *, tau: float, sub_bands: int, dropout: float) -> None:
        super().__init__()
        base = 8 * tau
        channels = round(2 * base)
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 5, stride=(2, 1), padding=2, bias=False),
                                  nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.stages = nn.Sequential()
        for number, (blocks, width, stride) in enumerate(zip(self.blocks, self.widths, self.strides, strict=True)):
            out = round(width * base)
            self.stages.append(nn.Sequential(*(
                BCResBlock(out if k else channels, out, sub_bands, dropout, 1 if k else stride, 2 ** number)
                for k in range(blocks))))
            channels = out
        # the 5x5 kernel has no padding over frequency: it takes the 5 or more frequencies that are left
        wide = round(4 * base)
        self.tail = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=(0, 2), groups=channels, bias=False),
            nn.Conv2d(channels, wide, 1, bias=False), nn.ReLU())
        self.head = nn.Conv2d(wide, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.stages(self.stem(x)))
        return torch.flatten(self.head(x.mean(dim=(2, 3), keepdim=True)), 1)
