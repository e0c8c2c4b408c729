"""`waveform_fir`: every clip through one learned filter: an equaliser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ConfigError
from ..registry import option
from .base import ProgramOptions, WaveProgram, decibels


POINTS = 8  # frequencies of explain


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
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        rate = backbone.frontend.sampling_rate
        gain = torch.fft.rfft(self.response.double().cpu(), n=max(1024, len(self.response))).abs()
        at = [round(i * (len(gain) - 1) / POINTS) for i in range(POINTS + 1)]
        return [{"hertz": round(i / (len(gain) - 1) * rate / 2), "gain dB": decibels(float(gain[i]))} for i in at]
