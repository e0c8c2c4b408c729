"""`latent_bridge`: small residual convolutions between the encoder's layers, after cross-lingual ASR reprogramming."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import option
from ._latent import Hook, LatentProgram, LayerOptions, before, copies
from ._nets import as_torch


@dataclass
class LatentBridgeConfig(LayerOptions):
    """Options of `latent_bridge`.

    Example:

        >>> LatentBridgeConfig(rank=32).kernel
        15
    """

    type: str = field(default="latent_bridge", init=False)
    rank: int = option(64, "Width of a bridge.", low=1, high=8192)
    kernel: int = option(15, "Frames that its convolution sees; odd.", low=1, high=1023)

    def validate(self) -> None:
        super().validate()
        if self.kernel % 2 == 0:
            raise ConfigError("LatentBridgeConfig.kernel", f"{self.kernel}", "an odd number of frames")


class LatentBridge(LatentProgram):
    """h' = h + W_up gelu(conv(W_down norm(h))) before each chosen layer; the convolution is depthwise.

    Parameters, a row per layer: `gain`, `offset` (width,) of the norm; `down` (rank, width), `conv` (rank, 1, kernel),
    `up` (width, rank), each with its bias; `up` at 0. 135 232 per layer for a width of 1024.

    Our reading of 2301.07851, whose enhancers are not described in what we could read, and which has no code: after
    that paper, never a reproduction of it.
    """

    Options = LatentBridgeConfig
    zero_effect_at_start = True
    learning_rate = 1e-3
    paper = "2301.07851"
    example = {"rank": 4, "kernel": 3}
    xfail = {"gradient_reaches_all": "up is 0, so that the rest of a bridge learns from the second step on"}

    def __init__(self, options: LatentBridgeConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        count, width, rank = len(options.layers), backbone.width, options.rank
        self.gain = nn.Parameter(torch.ones(count, width))
        self.offset = nn.Parameter(torch.zeros(count, width))
        self.down = nn.Parameter(torch.zeros(count, rank, width))
        self.down_bias = nn.Parameter(torch.zeros(count, rank))
        self.conv = nn.Parameter(torch.zeros(count, rank, 1, options.kernel))
        self.conv_bias = nn.Parameter(torch.zeros(count, rank))
        self.up = nn.Parameter(torch.zeros(count, width, rank))
        self.up_bias = nn.Parameter(torch.zeros(count, width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        self.gain.fill_(1.0)
        for i in range(len(self.down)):
            as_torch(self.down[i], self.down_bias[i], generator)
            as_torch(self.conv[i], self.conv_bias[i], generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        rows = copies(dict(self.named_parameters()))
        return tuple(
            (f"layer:{layer}", before(partial(_bridged, part={name: p[i] for name, p in rows.items()})))
            for i, layer in enumerate(self.options.layers)
        )


def _bridged(hidden: Tensor, part: dict[str, Tensor]) -> Tensor:
    x = hidden.to(part["down"].dtype)  # (batch, positions, width)
    x = F.layer_norm(x, x.shape[-1:], part["gain"], part["offset"])
    x = F.linear(x, part["down"], part["down_bias"]).transpose(1, 2)  # (batch, rank, positions)
    x = F.conv1d(x, part["conv"], part["conv_bias"], padding="same", groups=x.shape[1])
    x = F.linear(F.gelu(x).transpose(1, 2), part["up"], part["up_bias"])
    return hidden + x.to(hidden.dtype)
