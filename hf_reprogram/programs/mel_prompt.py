"""`mel_prompt`: learned frames before the spectrogram of every clip."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError, DataError
from ..registry import option
from ._spectrogram import SpectrogramOptions, SpectrogramProgram


@dataclass
class MelPromptConfig(SpectrogramOptions):
    """Options of `mel_prompt`.

    Example:

        >>> MelPromptConfig(length=16).length
        16
    """

    type: str = field(default="mel_prompt", init=False)
    length: int = option(32, "Learned frames.", low=1, high=10_000)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        super().resolve(canvas, backbone, reading)
        if backbone.facts.longest is not None and self.length >= self.frames:
            what = f"{self.length} frames before a spectrogram of {self.frames}, which cannot grow"
            raise ConfigError("MelPromptConfig.length", what, f"less than {self.frames}")


class MelPrompt(SpectrogramProgram):
    """f' = [theta; f]. A base of fixed length (Whisper, AST) loses its last frames for it: refused where these hear
    any of a clip. Others hear so many frames more.

    Parameters: `theta` (mels, length), started at 0, which is near the mean of normalised features. It moves the clip
    in time, so that there is no start without effect.

    Paper: the mel prompt of 2405.06134's code.
    """

    Options = MelPromptConfig
    zero_effect_at_start = False
    learning_rate = 1e-2
    paper = "2405.06134"
    example = {"length": 2}

    def __init__(self, options: MelPromptConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.theta = nn.Parameter(torch.zeros(options.mels, options.length))

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        features, length = batch.input_features, self.options.length
        lost = length if backbone.facts.longest is not None else 0
        if lost:
            held = backbone.signal_frames(batch)[:, -lost:].any(1)  # (batch,)
            if held.any():
                raise DataError(
                    f"row {int(held.nonzero()[0])} of the batch",
                    f"its clip reaches into the last {lost} of {features.shape[2]} frames, and {length} learned ones "
                    "push these out",
                    "clips that end before",
                    "a smaller MelPromptConfig.length, or a larger CanvasConfig.samples",
                )
        theta = self.theta.to(features.dtype).expand(len(features), -1, -1)
        made = torch.cat([theta, features[..., : features.shape[2] - lost]], -1)
        mask = batch.attention_mask
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), length), mask], 1)[:, : made.shape[2]]
        return replace(
            batch, input_features=made, attention_mask=mask, signal_mask=_later(batch, backbone, length, lost)
        )


def _later(batch: Batch, backbone: Any, frames: int, lost: int) -> Tensor | None:
    """Where the signal sits, so many frames later: (batch, samples), more of them where no frames are lost."""
    signal = batch.signal_mask
    if signal is None:
        return None
    moved = torch.cat([signal.new_zeros(len(signal), frames * backbone.frontend.span[0]), signal], 1)
    return moved[:, : signal.shape[1]] if lost else moved
