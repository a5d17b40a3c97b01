"""CP-ResNet, a residual network whose receptive field is kept small.

Koutini, Eghbal-zadeh, Dorfer, Widmer: *The receptive field as a regularizer in deep convolutional
neural networks for acoustic scene classification*, EUSIPCO 2019; the authors' code is
https://github.com/kkoutini/cpjku_dcase20.
"""
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two convolutions with batch norms and a shortcut, which is a 1x1 convolution where channels
    change.

    Shape: [N, in_channels, F, T] -> [N, channels, F, T].
    """

    def __init__(self, in_channels: int, channels: int, kernels: tuple[int, int]) -> None:
        super().__init__()
        first, second = kernels
        self.conv1 = nn.Conv2d(in_channels, channels, first, padding=first // 2, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, second, padding=second // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = None
        if in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class CPResNet(nn.Module):
    """CP-ResNet of any width and receptive field.

    A 5x5 stem of stride 2, three stages of four blocks with c, 2c and 4c channels, a 2x2 max-pool
    after the first, the second and the fourth block, a 1x1 convolution to the classes, batch norm
    and the mean over frequency and time. Of the 24 convolutions of the blocks, the first and
    ``rho`` others from the third on are 3x3, the rest 1x1.

    With ten classes, c = 64 and rho = 5 it has 898,580 parameters for the two channels of the
    authors' stereo input, and 896,980 for one.

    Args:
        width: number of channels c.
        rho: number of 3x3 convolutions, which sets the receptive field.

    Shape: log-mel energies [N, in_channels, F, T] -> logits [N, classes].
    """

    blocks = 4
    pooled_after = (0, 1, 3)

    def __init__(self, classes: int, *, width: int, rho: int, in_channels: int = 1) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, width, 5, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())
        kernels = [3 if k == 0 or 2 <= k < 2 + rho else 1 for k in range(6 * self.blocks)]
        layers: list[nn.Module] = []
        channels = width
        for number in range(3 * self.blocks):
            out = width * 2 ** (number // self.blocks)
            layers.append(ResidualBlock(channels, out, (kernels[2 * number], kernels[2 * number + 1])))
            if number in self.pooled_after:
                layers.append(nn.MaxPool2d(2))
            channels = out
        self.stages = nn.Sequential(*layers)
        classifier = nn.Conv2d(channels, classes, 1, bias=False)
        self.classifier = nn.Sequential(classifier, nn.BatchNorm2d(classes))

        # The authors initialize the weights with Fixup (Zhang et al., ICLR 2019): every block starts
        # as its shortcut, all logits start as 0, and the scale of the first convolutions falls with
        # the number of blocks.
        blocks = [layer for layer in layers if isinstance(layer, ResidualBlock)]
        nn.init.kaiming_normal_(stem.weight, nonlinearity="relu")
        for block in blocks:
            nn.init.normal_(block.conv1.weight, std=_he(block.conv1) / math.sqrt(len(blocks)))
            nn.init.zeros_(block.conv2.weight)
            if block.shortcut is not None:
                shortcut = cast(nn.Conv2d, block.shortcut[0])
                nn.init.normal_(shortcut.weight, std=_he(shortcut))
        nn.init.zeros_(classifier.weight)

    @property
    def head(self) -> nn.Module:
        """The layer that scales the logits: the last norm."""
        return self.classifier[1]

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.stages(self.stem(x))).mean(dim=(2, 3)), 1)


def _he(conv: nn.Conv2d) -> float:
    """Return the standard deviation sqrt(2 / fan-out) (He et al., ICCV 2015)."""
    return math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
