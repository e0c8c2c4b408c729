"""`latent_insert`: learned frames before those of the clip, in the encoder only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..batch import Reading
from ..registry import option
from ._latent import Hook, LatentProgram, entrance, inserted, refuse_layer_readings, start_as_noise
from .base import ProgramOptions


@dataclass
class LatentInsertConfig(ProgramOptions):
    """Options of `latent_insert`.

    Example:

        >>> LatentInsertConfig(length=4).length
        4
    """

    type: str = field(default="latent_insert", init=False)
    length: int = option(8, "Learned frames.", low=1, high=4096)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        refuse_layer_readings(self, backbone, reading)


class LatentInsert(LatentProgram):
    """The encoder hears [p; h] and gives what it makes of h: mask longer by p, its states stripped of it (S8).

    Bases of wav2vec2's kin move the clip's frames by it even where p is 0: a convolution over 128 frames tells them
    their places (S9). So there is no start without effect.

    Parameters: `prompt` (length, width), at the start what the base makes of noise.
    """

    Options = LatentInsertConfig
    # Of 1e-3 to 3e-2 on Moonshine, two clips of each of forty Arabic commands, judged on the validation split: larger
    # rates lose what the map alone knows.
    learning_rate = 3e-3
    paper = "2312.08079, 2506.21576"
    example = {"length": 3}

    def __init__(self, options: LatentInsertConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.prompt = nn.Parameter(torch.zeros(options.length, backbone.width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        start_as_noise({entrance(backbone): self.prompt}, backbone, generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        return inserted(self.prompt.clone(), backbone)
