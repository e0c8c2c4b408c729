"""`spec_border`: a learned frame round the spectrogram: its outer rows, and where no signal is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError
from ..registry import option
from ._spectrogram import RangedOptions, SpectrogramProgram


@dataclass
class SpecBorderConfig(RangedOptions):
    """Options of `spec_border`.

    Example:

        >>> SpecBorderConfig(border=4, outside=True).border
        4
    """

    type: str = field(default="spec_border", init=False)
    border: int = option(8, "Rows at the bottom and at the top, each.", low=1, high=2048)
    outside: bool = option(False, "Also every row of the frames that hear none of the clip.")

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        super().resolve(canvas, backbone, reading)
        if 2 * self.border > self.mels:
            what = f"{self.border} rows at each side of {self.mels}"
            raise ConfigError("SpecBorderConfig.border", what, f"at most {self.mels // 2}")


class SpecBorder(SpectrogramProgram):
    """f' = f + M * theta, with M one in the outer rows, and outside the clip. Added, not put in its place: a fresh one
    changes nothing.

    Parameters: `low` and `high` (border, frames), and with `outside` also `inner` (mels - 2 border, frames); all 0.
    """

    Options = SpecBorderConfig
    learning_rate = 1e-2
    paper = "ours"

    def __init__(self, options: SpecBorderConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.low = nn.Parameter(torch.zeros(options.border, options.frames))
        self.high = nn.Parameter(torch.zeros(options.border, options.frames))
        if options.outside:
            self.inner = nn.Parameter(torch.zeros(options.mels - 2 * options.border, options.frames))

    def changed(self, features: Tensor, batch: Batch, backbone: Any) -> Tensor:
        border = self.options.border
        if self.options.outside:
            outside = ~backbone.signal_frames(batch)  # (batch, frames)
            inner = self.inner * outside.unsqueeze(1)  # (batch, mels - 2 border, frames)
        else:
            inner = features.new_zeros(1, self.options.mels - 2 * border, self.options.frames)
        edges = [edge.expand(len(inner), -1, -1) for edge in (self.low, self.high)]
        return features + torch.cat([edges[0], inner, edges[1]], 1)
