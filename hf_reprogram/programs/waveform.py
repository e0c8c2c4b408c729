"""`waveform`: a learned sound added to every clip (Voice2Series, AR-SCR); as long as the canvas, or repeated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError, DataError
from ..registry import option
from .base import ProgramOptions, WaveProgram, decibels, signal_of


CODE_DROPOUT = 0.4  # of the released Voice2Series code, whatever its command line says
BANDS = 8  # of explain, from 0 to half the rate


@dataclass
class WaveformConfig(ProgramOptions):
    """Options of `waveform`.

    Example:

        >>> WaveformConfig(period=320, init="zero").mask
        False
    """

    type: str = field(default="waveform", init=False)
    period: int | None = option(
        None, "Samples of the sound, which repeats; None is the canvas's length.", low=1, high=2_000_000
    )
    mask: bool = option(False, "Add it only where the row's own signal is not.")
    dropout: float = option(0.0, "Share of its samples that are left out, in training only.", low=0.0, high=0.95)
    max_amplitude: float | None = option(
        None, "Bound on the added amplitude, by c tanh(theta / c); None has none.", low=1e-6, high=1e3
    )
    init: str = option(
        "auto",
        "Start: zero, normal (deviation `std`), glorot (uniform, sqrt(6 / (samples + 1))); auto is zero where the "
        "base hears the wave, and normal where it hears a spectrogram, which has no slope at silence.",
        choices=("auto", "zero", "normal", "glorot"),
    )
    std: float = option(1e-3, "Deviation of the normal start.", low=1e-8, high=10.0)
    compat: str | None = option(
        None, "v2s-code: as the released code of Voice2Series adds its sound.", choices=("v2s-code",)
    )

    def validate(self) -> None:
        super().validate()
        for name, own in (("mask", False), ("dropout", 0.0), ("max_amplitude", None), ("init", "auto")):
            given = getattr(self, name)
            if self.compat is not None and given != own:
                what = f"{given!r} with compat={self.compat!r}"
                raise ConfigError(f"WaveformConfig.{name}", what, f"{own!r}: the code has its own way")

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        if self.period is None:
            self.period = canvas.samples
        if self.period > canvas.samples:
            what = f"{self.period}, and the canvas has {canvas.samples} samples"
            raise ConfigError("WaveformConfig.period", what, f"at most {canvas.samples}")
        if self.mask and canvas.place in ("am", "fm"):
            what = f"True, and place={canvas.place!r} fills the canvas with the signal"
            raise ConfigError("WaveformConfig.mask", what, "False: there is no room beside the signal")


class Waveform(WaveProgram):
    """x'[t] = x[t] + M[t] drop(theta)[(o + t) mod P], theta of P samples in plain amplitude.

    - M is 1, or with `mask` 1 where the row's own signal is not (`signal_mask`); o is the row's `offset`, 0 where rows
      have none. P is the canvas's length; a shorter one repeats, the same at any place of a long canvas.
    - `max_amplitude` c: c tanh(theta / c) in the place of theta.
    - Start: zero, where the base's output is then its own. A base that hears a log-mel spectrogram has no gradient at
      a silent zero (S14): normal with deviation 1e-3. `estimate(waves)` starts from unlabelled rows in closed form.

    A penalty on theta is left to the optimiser (`weight_decay`); the papers' L2 of 0.04 stands in their loss.

    `compat="v2s-code"`: what the released code of Voice2Series does otherwise. Of the program, done here: no mask (it
    is built and never applied); dropout 0.4, whatever is asked for, at test time too; a Glorot start. Not of the
    program: the code trains the source network too (its `--mod 2`), with Adam at 0.05 / (1 + 0.48 t) and L2 0.05 on
    theta, and reports the best epoch on the test set: arguments of the training. Consecutive blocks of source labels:
    mapping `labels` with `method="blocks"`. Series are not scaled: `CanvasConfig(level="none")`. Of more copies than
    fit, it adds up all at sample 0, where our canvas places as many as fit.

    Parameters: `theta` (P,).

    Papers: Voice2Series (2106.09296), AR-SCR (2110.03894).
    """

    Options = WaveformConfig
    learning_rate = 1e-2
    paper = "2106.09296, 2110.03894"
    example = {"init": "normal", "std": 1e-2}

    def __init__(self, options: WaveformConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        if options.period is None:
            raise ConfigError("WaveformConfig.period", "None in a finished config", "the length of the canvas")
        self.theta = nn.Parameter(torch.zeros(options.period))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        size, init = len(self.theta), self.options.init
        if init == "auto":
            init = "zero" if backbone.frontend.axes is None else "normal"
        if self.options.compat is not None:
            init = "glorot"
        if init == "normal":
            self.theta.copy_(torch.randn(size, generator=generator) * self.options.std)
        elif init == "glorot":  # of a matrix (samples, 1)
            self.theta.copy_((torch.rand(size, generator=generator) * 2 - 1) * math.sqrt(6 / (size + 1)))

    def sound(self) -> Tensor:
        """(P,) what is added, without dropout."""
        limit = self.options.max_amplitude
        return self.theta if limit is None else limit * torch.tanh(self.theta / limit)

    def changed(self, wave: Tensor, batch: Batch) -> Tensor:
        compat = self.options.compat is not None
        rate = CODE_DROPOUT if compat else self.options.dropout
        dropped = nn.functional.dropout(self.sound(), rate, self.training or compat)
        added = self._unrolled(dropped, wave.shape[1], batch.offset)  # (samples,) or (batch, samples)
        return wave + (added * ~signal_of(batch) if self.options.mask else added)

    def _unrolled(self, sound: Tensor, samples: int, offset: Tensor | None) -> Tensor:
        period = len(sound)
        if offset is None:
            return sound.repeat(-(-samples // period))[:samples]
        # Slices, not a lookup: its backward would add up a sample's many gradients in any order.
        long = sound.repeat(-(-samples // period) + 1)
        return torch.stack([long[o : o + samples] for o in (offset % period).tolist()])

    @torch.no_grad()
    def estimate(self, waves: Tensor, offset: Tensor | None = None) -> None:
        """Set theta to minus the mean of the rows by phase: it takes away what is the same in all of them.

        No labels, no training. For a disturbance that repeats every P samples and sounds that do not.

        Args:
            waves: (rows, samples) on the canvas, as `model.collator()` makes `input_values`.
            offset: (rows,) their `offset`; None where every row begins at phase 0.

        Raises:
            DataError: a phase that no row has; a mean above `max_amplitude`.

        Example:

            columns = model.collator()(rows)
            model.active_programs()[0].estimate(columns["input_values"], columns.get("offset"))
        """
        rows, samples = waves.shape
        period = len(self.theta)
        begin = torch.zeros(rows, dtype=torch.int64) if offset is None else offset.cpu()
        phase = ((begin.unsqueeze(1) + torch.arange(samples)) % period).flatten()
        sums = torch.zeros(period, dtype=torch.float64).index_add_(0, phase, waves.detach().double().cpu().flatten())
        counts = torch.bincount(phase, minlength=period)
        if not bool((counts > 0).all()):
            what = f"no sample at {int((counts == 0).sum())} of {period} phases"
            raise DataError("estimate(waves)", what, "rows that reach every phase", "more rows, or longer ones")
        mean, limit = sums / counts, self.options.max_amplitude
        if limit is not None:
            if float(mean.abs().max()) >= limit:
                what = f"a mean of {float(mean.abs().max()):.3g}, above max_amplitude={limit}"
                raise DataError("estimate(waves)", what, "a smaller disturbance", "a larger max_amplitude")
            mean = limit * torch.atanh(mean / limit)
        self.theta.copy_(-mean)

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        sound = self.sound().double().cpu()
        row = {"samples": len(sound), "rms": float(sound.square().mean().sqrt()), "peak": float(sound.abs().max())}
        return [{**row, "level dB": decibels(row["rms"])}, *_bands(sound, backbone.frontend.sampling_rate)]


def _bands(sound: Tensor, rate: int) -> list[dict[str, Any]]:
    """The share of a sound's energy in equal bands of frequency."""
    energy = torch.fft.rfft(sound).abs().square()
    energy = energy / energy.sum().clamp(min=1e-300)
    edges = [round(i * len(energy) / BANDS) for i in range(BANDS + 1)]
    width = rate / 2 / BANDS
    return [
        {"hertz": f"{i * width:.0f} to {(i + 1) * width:.0f}", "share of energy": float(energy[a:b].sum())}
        for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))
    ]
