"""`spec_additive`: one learned pattern added to the spectrogram of every clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..registry import option
from ._nets import normal
from ._spectrogram import RangedOptions, SpectrogramProgram


@dataclass
class SpecAdditiveConfig(RangedOptions):
    """Options of `spec_additive`.

    Example:

        >>> SpecAdditiveConfig(rank=2).rank
        2
    """

    type: str = field(default="spec_additive", init=False)
    rank: int | None = option(
        None, "Rank of the factorised pattern, rank (mels + frames) numbers; None is a free pattern.", low=1, high=4096
    )


class SpecAdditive(SpectrogramProgram):
    """f' = f + theta.

    Parameters: `theta` (mels, frames) at 0; or theta = u vᵀ with `u` (mels, rank) at 0 and `v` (frames, rank).
    """

    Options = SpecAdditiveConfig
    learning_rate = 1e-2
    paper = "2211.01317, 2211.08379"

    def __init__(self, options: SpecAdditiveConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        if options.rank is None:
            self.theta = nn.Parameter(torch.zeros(options.mels, options.frames))
        else:
            self.u = nn.Parameter(torch.zeros(options.mels, options.rank))
            self.v = nn.Parameter(torch.zeros(options.frames, options.rank))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if self.options.rank is not None:
            normal(self.v, 1.0, generator)  # of size 1, or a zero u would learn at its rate times v's size

    def changed(self, features: Tensor, batch: Batch, backbone: Any) -> Tensor:
        return features + (self.theta if self.options.rank is None else self.u @ self.v.T)
