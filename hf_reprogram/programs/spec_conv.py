"""`spec_conv`: a small network over the frames of each spectrogram, beside it or in its place (ID-NMR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..registry import option
from ._nets import ConvStack, as_torch
from ._spectrogram import SpectrogramOptions, SpectrogramProgram


@dataclass
class SpecConvConfig(SpectrogramOptions):
    """Options of `spec_conv`.

    Example:

        >>> SpecConvConfig(residual=False).channels
        135
    """

    type: str = field(default="spec_conv", init=False)
    channels: int = option(135, "Channels of the four convolutions.", low=1, high=8192)
    residual: bool = option(True, "f + g(f), from no effect; false is g(f) alone, as in the paper.")


class SpecConv(SpectrogramProgram):
    """f' = f + W conv4(f) + b, or without the f: four convolutions over time (three frames each), and a linear layer
    back to the mels.

    Parameters: `stack` (see ConvStack); `outer` (mels, channels) and `outer_bias` (mels,), at 0 where residual.
    234 623 in all for 128 mels and 135 channels, as in the paper.

    Paper: ID-NMR of 2211.01317, whose batch norm is a layer norm over the channels here.
    """

    Options = SpecConvConfig
    learning_rate = 1e-3
    paper = "2211.01317"
    example = {"channels": 12}
    xfail = {"gradient_reaches_all": "the last layer is 0, so that those before it learn from the second step on"}

    def __init__(self, options: SpecConvConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.stack = ConvStack(options.mels, options.channels)
        self.outer = nn.Parameter(torch.zeros(options.mels, options.channels))
        self.outer_bias = nn.Parameter(torch.zeros(options.mels))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        self.stack.start(generator)
        if not self.options.residual:
            as_torch(self.outer, self.outer_bias, generator)

    def changed(self, features: Tensor, batch: Batch, backbone: Any) -> Tensor:
        made = F.conv1d(self.stack(features), self.outer.unsqueeze(-1), self.outer_bias)
        return features + made if self.options.residual else made
