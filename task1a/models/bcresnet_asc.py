"""BC-ResNet-ASC, the low-complexity network of the winning entry of DCASE 2021 Task 1A.

Kim, Yang, Kim, Chang: *QTI submission to DCASE 2021: residual normalization for device-imbalanced
acoustic scene classification with efficient design* (arXiv 2206.13909), built from the blocks of
BC-ResNet.
"""
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.models.bcresnet import BCResBlock
from task1a.models.mixstyle import FreqMixStyle
from task1a.models.normalization import ResidualNorm


class BCResNetASC(nn.Module):
    """BC-ResNet-ASC of any width.

    A 5x5 stem of stride 2, four stages of (2, 2, 2, 3) blocks with c, 1.5c, 2c and 2.5c channels
    for c = 10 tau, a 2x2 max-pool after the first and the second, a 1x1 convolution to the classes
    and the mean over frequency and time. With ten classes tau = 1 has 8,055 parameters and tau = 8
    has 314,970.

    Args:
        tau: width factor.
        residual_norm: ResNorm at the input and after every stage (before its max-pool), at the
            input only, or nowhere.
        residual_norm_shortcut: lambda of ResNorm.
        residual_norm_form: ResNorm, or its relaxed form.
        residual_norm_learned: whether lambda is learned, for each position.
        mixstyle_probability: probability of Freq-MixStyle behind the stem, in training.
        mixstyle_alpha: parameter of its Beta distribution.

    Shape: log-mel energies [N, 1, F, T] -> logits [N, classes]. F is a multiple of 8 ``sub_bands``.
    """

    blocks = (2, 2, 2, 3)
    widths = (1.0, 1.5, 2.0, 2.5)

    def __init__(self, classes: int, *, tau: float, sub_bands: int, dropout: float,
                 residual_norm: Literal["all", "input", "none"], residual_norm_shortcut: float,
                 residual_norm_eps: float, residual_norm_form: Literal["residual", "relaxed"],
                 residual_norm_learned: bool, mixstyle_probability: float, mixstyle_alpha: float) -> None:
        super().__init__()
        base = 10 * tau
        stem = round(2 * base)

        def norm(wanted: bool) -> nn.Module:
            if not wanted:
                return nn.Identity()
            return ResidualNorm(residual_norm_shortcut, residual_norm_eps, residual_norm_form, residual_norm_learned)

        self.input_norm = norm(residual_norm != "none")
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(stem),
                                  nn.ReLU(inplace=True))
        self.mixstyle = FreqMixStyle(mixstyle_probability, mixstyle_alpha) if mixstyle_probability else nn.Identity()
        self.stages, self.stage_norms = nn.ModuleList(), nn.ModuleList()
        channels = stem
        for blocks, width in zip(self.blocks, self.widths, strict=True):
            out = round(width * base)
            self.stages.append(nn.Sequential(*(
                BCResBlock(out if k else channels, out, sub_bands, dropout) for k in range(blocks))))
            self.stage_norms.append(norm(residual_norm == "all"))
            channels = out
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixstyle(self.stem(self.input_norm(x)))
        for number, (stage, stage_norm) in enumerate(zip(self.stages, self.stage_norms, strict=True)):
            x = stage_norm(stage(x))
            if number < 2:
                x = F.max_pool2d(x, 2)
        # the classifier first, as in the paper's table; both are linear, so the order does not matter
        return torch.flatten(self.head(x).mean(dim=(2, 3)), 1)
