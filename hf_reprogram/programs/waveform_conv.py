"""`waveform_conv`: what is added depends on the clip: a small convolutional network on the wave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ConfigError
from ..registry import option
from ._nets import convolutions, start_but_last
from .base import ProgramOptions, WaveProgram


@dataclass
class WaveformConvConfig(ProgramOptions):
    """Options of `waveform_conv`.

    Example:

        >>> WaveformConvConfig().depth
        3
    """

    type: str = field(default="waveform_conv", init=False)
    channels: int = option(16, "Channels of the hidden layers.", low=1, high=1024)
    kernel: int = option(9, "Samples that one convolution sees, odd.", low=1, high=4097)
    depth: int = option(3, "Hidden layers.", low=1, high=32)

    def validate(self) -> None:
        super().validate()
        if self.kernel % 2 == 0:
            raise ConfigError(
                "WaveformConvConfig.kernel", f"{self.kernel}", "an odd number", f"{self.kernel + 1} would do"
            )


class WaveformConv(WaveProgram):
    """x' = x + conv(gelu(conv(... gelu(conv(x))))), `depth` hidden layers of `channels`, all of the canvas's length.

    Start: convolutions as torch starts them, the last one zero, so that x' = x; hence the first step moves the last
    one alone. Nothing of it depends on the other rows of a batch.

    Parameters: `kernels` (out, in, kernel) and `biases` (out,); 4 945 numbers by default.
    """

    Options = WaveformConvConfig
    zero_effect_at_start = True
    learning_rate = 1e-3
    paper = "ours"
    example = {"channels": 4, "kernel": 5, "depth": 2}
    xfail = {"gradient_reaches_all": "the last convolution starts at zero: no gradient reaches those before it yet"}

    def __init__(self, options: WaveformConvConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.kernels, self.biases = convolutions([1, *[options.channels] * options.depth, 1], options.kernel)

    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        start_but_last(self.kernels, self.biases, generator)

    def changed(self, wave: Tensor, batch: Batch) -> Tensor:
        x = wave.unsqueeze(1)  # (batch, channels, samples)
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = nn.functional.conv1d(nn.functional.gelu(x) if i else x, kernel, bias, padding=kernel.shape[2] // 2)
        return wave + x.squeeze(1)
