"""`waveform_unet`: what is added depends on the clip: a small U-Net on the wave, which sees far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, gelu, interpolate

from ..batch import Batch
from ..errors import ConfigError
from ..registry import option
from ._nets import convolutions, start_but_last
from .base import ProgramOptions, WaveProgram


@dataclass
class WaveformUnetConfig(ProgramOptions):
    """Options of `waveform_unet`.

    Example:

        >>> WaveformUnetConfig().channels
        [8, 16, 32]
    """

    type: str = field(default="waveform_unet", init=False)
    channels: list[int] = option([8, 16, 32], "Channels of each level, the finest first.")
    kernel: int = option(15, "Samples that one convolution sees, odd.", low=1, high=4097)
    stride: int = option(4, "By how much each level is coarser.", low=2, high=64)

    def validate(self) -> None:
        super().validate()
        if self.kernel % 2 == 0:
            raise ConfigError(
                "WaveformUnetConfig.kernel", f"{self.kernel}", "an odd number", f"{self.kernel + 1} would do"
            )
        if not self.channels or not all(1 <= c <= 4096 for c in self.channels):
            raise ConfigError("WaveformUnetConfig.channels", f"{self.channels!r}", "numbers from 1 to 4096")


class WaveformUnet(WaveProgram):
    """x' = x + U(x).

    Downwards each level is d_i = gelu(conv(d_(i-1))) with a stride; upwards u_i = gelu(conv(longer(u_(i+1)))) + d_i,
    `longer` by linear interpolation, and the last convolution gives the wave. No batch norm: a row served alone must
    sound as it did among others.

    Start: convolutions as torch starts them, the last one zero, so that x' = x; hence the first step moves the last
    one alone.

    Parameters: `kernels` (out, in, kernel) and `biases` (out,), downwards first; 19 521 numbers by default.
    """

    Options = WaveformUnetConfig
    zero_effect_at_start = True
    learning_rate = 1e-3
    paper = "ours"
    example = {"channels": [4, 8], "kernel": 5}
    xfail = {"gradient_reaches_all": "the last convolution starts at zero: no gradient reaches those before it yet"}

    def __init__(self, options: WaveformUnetConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.kernels, self.biases = convolutions([1, *options.channels, *options.channels[-2::-1], 1], options.kernel)

    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        start_but_last(self.kernels, self.biases, generator)

    def changed(self, wave: Tensor, batch: Batch) -> Tensor:
        layers, side = list(zip(self.kernels, self.biases, strict=True)), self.options.kernel // 2
        half = len(layers) // 2
        levels = [wave.unsqueeze(1)]  # (batch, channels, samples / stride ** level)
        for kernel, bias in layers[:half]:
            levels.append(gelu(conv1d(levels[-1], kernel, bias, self.options.stride, side)))
        x = levels.pop()
        for kernel, bias in layers[half:]:
            skip = levels.pop()
            x = interpolate(x, size=skip.shape[2], mode="linear", align_corners=False)
            x = conv1d(x, kernel, bias, padding=side)
            x = gelu(x) + skip if levels else x
        return wave + x.squeeze(1)
