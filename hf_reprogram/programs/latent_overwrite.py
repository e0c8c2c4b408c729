"""`latent_overwrite`: learned frames in the place of the first ones: nothing in the base changes its length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Reading
from ..errors import ConfigError
from ..registry import option
from ._latent import Hook, LatentProgram, before, joined, start_as_noise
from .base import ProgramOptions


@dataclass
class LatentOverwriteConfig(ProgramOptions):
    """Options of `latent_overwrite`.

    Example:

        >>> LatentOverwriteConfig(length=4).length
        4
    """

    type: str = field(default="latent_overwrite", init=False)
    length: int = option(5, "Frames that are replaced.", low=1, high=4096)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        frames = backbone.positions(canvas.samples) - backbone.lead
        if self.length >= frames:
            name = type(backbone.base).__name__
            what = f"{self.length} of the {frames} frames that the layers of a {name} see"
            raise ConfigError("LatentOverwriteConfig.length", what, f"less than {frames}")


class LatentOverwrite(LatentProgram):
    """Before the first layer [p; h_P:] in the place of h. Positions that the base itself puts there (AST) stay.

    Parameters: `prompt` (length, width), at the start what the base makes of noise.

    Paper: after SpeechPrompt, which overwrites keys and values of a unit language model.
    """

    Options = LatentOverwriteConfig
    learning_rate = 1e-2
    paper = "2203.16773, 2303.00733"
    example = {"length": 1}

    def __init__(self, options: LatentOverwriteConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.prompt = nn.Parameter(torch.zeros(options.length, backbone.width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        start_as_noise({"layer:0": self.prompt}, backbone, generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        prompt, lead = self.prompt.clone(), backbone.lead

        def replaced(hidden: Tensor) -> Tensor:
            rest = joined(prompt, hidden[:, lead + len(prompt) :])
            return torch.cat([hidden[:, :lead], rest], 1)

        return (("layer:0", before(replaced)),)
