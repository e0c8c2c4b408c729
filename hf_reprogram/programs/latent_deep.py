"""`latent_deep`: learned frames before those of the clip, others in every layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Reading
from ..errors import ConfigError
from ..registry import option
from ._latent import Hook, LatentProgram, before, inserted, joined, refuse_layer_readings, start_as_noise
from .base import ProgramOptions


@dataclass
class LatentDeepConfig(ProgramOptions):
    """Options of `latent_deep`.

    Example:

        >>> LatentDeepConfig(length=4).length
        4
    """

    type: str = field(default="latent_deep", init=False)
    length: int = option(8, "Learned frames, in each layer.", low=1, high=4096)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        refuse_layer_readings(self, backbone, reading)
        if getattr(backbone.base.config, "squeeze_factor", 1) > 1:
            what = f"{self.type!r}, and the layers of a {type(backbone.base).__name__} see squeezed frames"
            raise ConfigError("ReprogramConfig.program", what, "a program that holds to no frame", "latent_insert")


class LatentDeep(LatentProgram):
    """Frames put before the clip's as by `latent_insert`; before layer l they are replaced by p_l.

    Parameters: `prompts` (layers, length, width), at the start what the base makes of noise.
    """

    Options = LatentDeepConfig
    learning_rate = 5e-3
    paper = "2312.08079, 2506.21576"
    example = {"length": 3}

    def __init__(self, options: LatentDeepConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.prompts = nn.Parameter(torch.zeros(len(backbone.layers[1]), options.length, backbone.width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        start_as_noise({f"layer:{i}": p for i, p in enumerate(self.prompts)}, backbone, generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        prompts = self.prompts.clone()
        deep = [(f"layer:{i}", before(partial(_replaced, prompt=p))) for i, p in enumerate(prompts)]
        return inserted(prompts[0], backbone) + tuple(deep)


def _replaced(hidden: Tensor, prompt: Tensor) -> Tensor:
    return joined(prompt, hidden[:, len(prompt) :])
