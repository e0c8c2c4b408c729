"""What programs of the spectrogram share: their size, and the range that they may be held to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..batch import Batch, Reading
from ..errors import ConfigError, UsageError
from ..registry import option
from .base import Program, ProgramOptions


@dataclass
class SpectrogramOptions(ProgramOptions):
    """Options of every program of the spectrogram."""

    mels: int | None = option(None, "Filled in: rows of the base's spectrogram.", low=1, high=4096)
    frames: int | None = option(None, "Filled in: its frames, for the canvas of the config.", low=1, high=100_000)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        mels, frames = backbone.feature_shape(canvas.samples)
        for name, real in (("mels", mels), ("frames", frames)):
            given = getattr(self, name)
            if given not in (None, real):
                what = f"{given}, and a {type(backbone.base).__name__} hears {canvas.samples} samples as {real}"
                raise ConfigError(f"{type(self).__name__}.{name}", what, "None: it is filled in")
        self.mels, self.frames = mels, frames


@dataclass
class RangedOptions(SpectrogramOptions):
    """Options of those that add to the spectrogram."""

    keep_range: bool = option(False, "Hold the result within the smallest and the largest value of each row's own.")


class SpectrogramProgram(Program):
    """f -> f' on the base's normalised features, (batch, mels, frames). A subclass gives `changed`."""

    accepts = gives = "features"
    zero_effect_at_start: ClassVar[bool] = True

    def changed(self, features: Tensor, batch: Batch, backbone: Any) -> Tensor:
        """(batch, mels, frames) from the same."""
        raise NotImplementedError

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        features, options = batch.input_features, self.options
        if features.shape[1:] != (options.mels, options.frames):
            what = f"a spectrogram of {tuple(features.shape[1:])}"
            raise UsageError("input_values", what, f"{options.mels} mels and {options.frames} frames, as configured")
        made = self.changed(features, batch, backbone)
        if getattr(options, "keep_range", False):
            low, high = features.amin((1, 2), keepdim=True), features.amax((1, 2), keepdim=True)
            made = torch.minimum(torch.maximum(made, low), high)
        return replace(batch, input_features=made)
