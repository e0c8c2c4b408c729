"""`waveform_fir`: every clip through one learned filter: an equaliser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ConfigError, DataError
from ..registry import option
from .base import ProgramOptions, WaveProgram, decibels


POINTS = 8  # frequencies of explain
SILENT = 1e-8  # power, of the loudest frequency's: what lies 80 dB below is taken for nothing


@dataclass
class WaveformFirConfig(ProgramOptions):
    """Options of `waveform_fir`.

    Example:

        >>> WaveformFirConfig().taps
        129
    """

    type: str = field(default="waveform_fir", init=False)
    taps: int = option(
        129,
        "Length of the filter, odd; it tells frequencies apart that lie rate / taps hertz apart.",
        low=1,
        high=65537,
    )

    def validate(self) -> None:
        super().validate()
        if self.taps % 2 == 0:
            raise ConfigError("WaveformFirConfig.taps", f"{self.taps}", "an odd number", f"{self.taps + 1} would do")


class WaveformFir(WaveProgram):
    """x'[t] = sum over k of w[k] x[t + K // 2 - k], x zero outside the canvas: a convolution of the same length.

    Start: w is 1 in its middle, else 0, so that x' = x. The phase is free: w need not be symmetric.
    `estimate(waves, wanted)` starts it as an equaliser, from unlabelled rows in closed form.

    Parameters: `response` (K,), the filter's impulse response.
    """

    Options = WaveformFirConfig
    zero_effect_at_start = True
    learning_rate = 1e-2
    paper = "ours"
    example = {"taps": 9}

    def __init__(self, options: WaveformFirConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.response = nn.Parameter(torch.zeros(options.taps))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        self.response[len(self.response) // 2] = 1.0

    def changed(self, wave: Tensor, batch: Batch) -> Tensor:
        kernel = self.response.flip(0).view(1, 1, -1)  # torch correlates
        return nn.functional.conv1d(wave.unsqueeze(1), kernel, padding=len(self.response) // 2).squeeze(1)

    @torch.no_grad()
    def estimate(self, waves: Tensor, wanted: Tensor) -> None:
        """Set w to the filter after which rows have the mean spectrum of others, and their loudness.

        No labels, no training, no pairs: for rows that came through a channel, and any like them that did not. The
        gain is the root of the ratio of their mean power at the K // 2 + 1 frequencies of K samples; no delay.

        Args:
            waves: (rows, samples) on the canvas, as `model.collator()` makes `input_values`.
            wanted: (other rows, samples) the same.

        Raises:
            DataError: rows shorter than the filter, or silent ones.

        Example:

            heard, clean = (model.collator()(rows)["input_values"] for rows in (muffled, others))
            model.active_programs()[0].estimate(heard, clean)
        """
        taps = len(self.response)
        own, other = (_power(rows, taps, name) for rows, name in ((waves, "waves"), (wanted, "wanted")))
        gain = (other / own).sqrt().to(torch.complex128)
        self.response.copy_(torch.fft.irfft(gain, n=taps).roll(taps // 2))

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        rate = backbone.frontend.sampling_rate
        gain = torch.fft.rfft(self.response.double().cpu(), n=max(1024, len(self.response))).abs()
        at = [round(i * (len(gain) - 1) / POINTS) for i in range(POINTS + 1)]
        return [{"hertz": round(i / (len(gain) - 1) * rate / 2), "gain dB": decibels(float(gain[i]))} for i in at]


def _power(waves: Tensor, taps: int, name: str) -> Tensor:
    """(taps // 2 + 1,) mean power by frequency, of stretches that overlap by half under a window."""
    rows, samples = waves.shape
    if samples < taps:
        raise DataError(f"estimate({name})", f"rows of {samples} samples", f"at least {taps}, as the filter")
    window = torch.hann_window(taps + 2, periodic=False, dtype=torch.float64)[1:-1]  # its ends are zero
    parts = waves.detach().double().cpu().unfold(1, taps, max(taps // 2, 1))  # (rows, stretches, taps)
    power = torch.fft.rfft(parts * window).abs().square().mean((0, 1))
    if not float(power.max()) > 0:
        raise DataError(f"estimate({name})", "silence", "rows with a signal")
    return power.clamp(min=SILENT * float(power.max()))
