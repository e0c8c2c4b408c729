"""`spec_smm`: one learned pattern, weighted for every clip by a mask that a small network draws (SMM)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ._nets import as_torch
from ._spectrogram import RangedOptions, SpectrogramProgram


CHANNELS = (1, 8, 16, 32, 64, 1)
PATCH = 8  # mask values are one per patch of so many mels and frames: three poolings by two


@dataclass
class SpecSmmConfig(RangedOptions):
    """Options of `spec_smm`.

    Example:

        >>> SpecSmmConfig().type
        'spec_smm'
    """

    type: str = field(default="spec_smm", init=False)


class SpecSmm(SpectrogramProgram):
    """f' = f + theta * up(g(f)): g is five convolutions 3x3 (1, 8, 16, 32, 64, 1 channels; ReLU between them) with
    three poolings, and `up` repeats each of its values over a patch of 8x8.

    Parameters: `theta` (mels, frames) at 0; 24 961 of g as torch starts them, but its last bias at 1: from 0 the mask
    is nearly 0, and theta would get no gradient. No batch norm: a program must not depend on its batch mates.

    Paper: 2406.03150, for images; on spectrograms it is ours.
    """

    Options = SpecSmmConfig
    learning_rate = 1e-2
    paper = "2406.03150"
    xfail = {"gradient_reaches_all": "theta is 0, so that the mask's network learns from the second step on"}

    def __init__(self, options: SpecSmmConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.theta = nn.Parameter(torch.zeros(options.mels, options.frames))
        pairs = list(zip(CHANNELS, CHANNELS[1:], strict=False))
        self.kernels = nn.ParameterList([torch.zeros(outputs, inputs, 3, 3) for inputs, outputs in pairs])
        self.biases = nn.ParameterList([torch.zeros(outputs) for _, outputs in pairs])

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            as_torch(kernel, bias, generator)
        self.biases[-1].fill_(1.0)

    def mask(self, features: Tensor) -> Tensor:
        """(batch, mels, frames), one value per patch."""
        x = features.unsqueeze(1)  # (batch, 1, mels, frames)
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = F.conv2d(x, kernel, bias, padding=1)
            if i < len(self.kernels) - 1:
                x = x.relu()
            if i < 3:
                x = F.max_pool2d(x, 2, ceil_mode=True)  # a last patch may be cut
        wide = x.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        return wide[:, 0, : features.shape[1], : features.shape[2]]

    def changed(self, features: Tensor, batch: Batch, backbone: Any) -> Tensor:
        return features + self.theta * self.mask(features)
