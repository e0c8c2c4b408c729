"""`latent_film`: hidden states scaled and shifted, by learned vectors or by what a middle layer says (IDS-NMR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Reading
from ..errors import ConfigError
from ..registry import option
from ._latent import Hook, LatentProgram, LayerOptions, after, before, layers_read
from ._nets import ConvStack, as_torch


@dataclass
class LatentFilmConfig(LayerOptions):
    """Options of `latent_film`.

    Example:

        >>> LatentFilmConfig(source_layer=8, target="output", residual=False).channels
        54
    """

    type: str = field(default="latent_film", init=False)
    target: str = option(
        "layers",
        "Where: before `layers`, or at the encoder's output, which scales what is pooled from it alike.",
        choices=("layers", "output"),
    )
    source_layer: int | None = option(
        None, "Scale and shift come from this layer's output, by a network, for each clip; None: learned vectors."
    )
    channels: int = option(54, "Channels of that network.", low=1, high=8192)
    residual: bool = option(
        True, "(1 + scale) h + shift, from no effect; false is scale * h + shift, as in the paper."
    )

    def validate(self) -> None:
        super().validate()
        if self.source_layer is not None and self.target != "output":
            raise ConfigError("LatentFilmConfig.source_layer", "given with target='layers'", "target='output'")
        if self.source_layer is None and not self.residual:
            raise ConfigError(
                "LatentFilmConfig.residual", "False without a source_layer: all states would be 0", "True"
            )

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        if self.target == "layers":
            super().resolve(canvas, backbone, reading)
        elif reading.layer is not None:
            what = f"'output', and the mapping reads layer {reading.layer} of a {type(backbone.base).__name__}"
            raise ConfigError("LatentFilmConfig.target", what + ": nothing would train", "target='layers'")
        elif self.source_layer is not None:
            where = "LatentFilmConfig.source_layer"
            self.source_layer = layers_read([self.source_layer], backbone, reading, where)[0]


class LatentFilm(LatentProgram):
    """h' = (1 + gamma) h + beta, before chosen layers or at the encoder's output.

    With `source_layer` gamma and beta come from a clip's own states behind that layer: four convolutions over their
    frames, the mean over these, a linear layer.

    Parameters: `gamma` and `beta` (sites, width) at 0; or `stack` (see ConvStack), `outer` (2 width, channels) and
    `outer_bias` (2 width,), these two at 0 where residual: 235 680 for a width of 768, as in the paper.

    Paper: IDS-NMR of 2211.01317 for `source_layer`.
    """

    Options = LatentFilmConfig
    zero_effect_at_start = True
    learning_rate = 1e-2
    paper = "2211.01317"

    def __init__(self, options: LatentFilmConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        width = backbone.width
        if options.source_layer is None:
            sites = 1 if options.target == "output" else len(options.layers)
            self.gamma = nn.Parameter(torch.zeros(sites, width))
            self.beta = nn.Parameter(torch.zeros(sites, width))
        else:
            self.learning_rate = 1e-3
            self.stack = ConvStack(width, options.channels)
            self.outer = nn.Parameter(torch.zeros(2 * width, options.channels))
            self.outer_bias = nn.Parameter(torch.zeros(2 * width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if self.options.source_layer is not None:
            self.stack.start(generator)
            if not self.options.residual:
                as_torch(self.outer, self.outer_bias, generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        if self.options.source_layer is not None:
            return self._from_source(backbone.lead)
        pairs = list(zip(self.gamma.clone(), self.beta.clone(), strict=True))
        if self.options.target == "output":
            return (("output:after", after(partial(_modulated, gamma=pairs[0][0], beta=pairs[0][1]))),)
        return tuple(
            (f"layer:{i}", before(partial(_modulated, gamma=gamma, beta=beta)))
            for i, (gamma, beta) in zip(self.options.layers, pairs, strict=True)
        )

    def _from_source(self, lead: int) -> tuple[Hook, ...]:
        layers, outer, bias = self.stack.copies(), self.outer.clone(), self.outer_bias.clone()
        one = 1.0 if self.options.residual else 0.0
        said: list[Tensor] = []  # (batch, 1, 2 width) of this call

        def listen(hidden: Tensor) -> Tensor:
            frames = hidden[:, lead:].transpose(1, 2).to(bias.dtype)  # (batch, width, frames)
            mean = ConvStack.run(frames, layers).mean(-1)  # (batch, channels)
            said[:] = [F.linear(mean, outer, bias).unsqueeze(1)]
            return hidden

        def modulate(hidden: Tensor) -> Tensor:
            gamma, beta = said[0].chunk(2, -1)
            return _modulated(hidden, gamma + (one - 1.0), beta)

        source = f"layer:{self.options.source_layer}:after"
        return (source, after(listen)), ("output:after", after(modulate))


def _modulated(hidden: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return (1.0 + gamma.to(hidden.dtype)) * hidden + beta.to(hidden.dtype)
