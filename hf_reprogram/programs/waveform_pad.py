"""`waveform_pad`: a learned sound before every clip, or on both sides of it (Muting Whisper, speaker verification)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError, DataError
from ..registry import option
from .base import ProgramOptions, WaveProgram, decibels, signal_of


@dataclass
class WaveformPadConfig(ProgramOptions):
    """Options of `waveform_pad`.

    Example:

        >>> WaveformPadConfig(before=1600, after=1600).limit
        0.02
    """

    type: str = field(default="waveform_pad", init=False)
    before: int = option(10240, "Samples before the clip.", low=0, high=2_000_000)
    after: int = option(0, "Samples after it.", low=0, high=2_000_000)
    limit: float = option(
        0.02, "Largest amplitude: the sound is clamped to plus and minus so much.", low=1e-6, high=1e3
    )

    def validate(self) -> None:
        super().validate()
        if not self.before + self.after:
            raise ConfigError("WaveformPadConfig.before", "0, and after=0", "samples on one side at least")

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        if backbone.facts.longest is not None and self.before + self.after >= canvas.samples:
            what = f"{self.before} and {self.after} samples on a canvas of {canvas.samples}"
            raise ConfigError("WaveformPadConfig.before", what, "room for a signal: the base's length is fixed")


class WaveformPad(WaveProgram):
    """x' = [clamp(theta_before, -c, c); x; clamp(theta_after, -c, c)].

    The canvas grows by so many samples. Where the base has a fixed length it does not: as many are taken from the
    padding at the canvas's end, and a row whose signal stands there is an error.

    A sample at the limit can come back: the gradient passes where a step would lead inwards, as in projecting after
    each step (Muting Whisper). Start: uniform in [-c, c]; so a fresh program is heard.

    Parameters: `before` and `after`, one number per sample; an empty side has none.

    Papers: Muting Whisper (2405.06134), learnable padding on both sides (2411.11353).
    """

    Options = WaveformPadConfig
    learning_rate = 1e-3
    paper = "2405.06134, 2411.11353"
    example = {"before": 320, "after": 160, "limit": 0.1}

    def __init__(self, options: WaveformPadConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.before = nn.Parameter(torch.zeros(options.before)) if options.before else None
        self.after = nn.Parameter(torch.zeros(options.after)) if options.after else None

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        for side in self._sides():
            side.copy_((torch.rand(len(side), generator=generator) * 2 - 1) * self.options.limit)

    def _sides(self) -> list[Tensor]:
        return [side for side in (self.before, self.after) if side is not None]

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        wave, mask = batch.input_values.float(), signal_of(batch)
        count, samples = wave.shape
        if backbone.facts.longest is not None:
            samples -= self.options.before + self.options.after
            cut = mask[:, samples:].any(1)
            if bool(cut.any()):
                row = int(cut.nonzero()[0])
                raise DataError(
                    f"rows[{row}] of the batch",
                    f"its signal reaches into the last {wave.shape[1] - samples} samples of the canvas",
                    f"signals that end by sample {samples}: the base hears {wave.shape[1]}, the program's among them",
                    "fewer samples before and after, a shorter signal, or place='start'",
                )
        parts, masks = [wave[:, :samples]], [mask[:, :samples]]
        for side, first in ((self.before, True), (self.after, False)):
            if side is not None:
                sound = _Clamped.apply(side, self.options.limit).expand(count, -1)
                parts.insert(0 if first else len(parts), sound)
                masks.insert(0 if first else len(masks), torch.zeros_like(sound, dtype=torch.bool))
        return replace(batch, input_values=torch.cat(parts, 1), signal_mask=torch.cat(masks, 1))

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        rows, limit = [], self.options.limit
        for name, side in (("before", self.before), ("after", self.after)):
            if side is not None:
                sound = side.double().clamp(-limit, limit)
                rms, at = float(sound.square().mean().sqrt()), float((sound.abs() >= limit).double().mean())
                rows.append(
                    {"side": name, "samples": len(sound), "rms": rms, "level dB": decibels(rms), "at the limit": at}
                )
        return rows


class _Clamped(torch.autograd.Function):
    """clamp(x, -c, c), whose gradient is zero only where a step would lead further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ((x.abs() <= ctx.limit) | (gradient * x > 0)), None
