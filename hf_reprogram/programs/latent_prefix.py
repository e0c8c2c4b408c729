"""`latent_prefix`: keys and values that every position may attend to besides the clip's, behind a gate."""

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
from ._latent import DEVIATION, Hook, LatentProgram, LayerOptions
from ._nets import normal


@dataclass
class LatentPrefixConfig(LayerOptions):
    """Options of `latent_prefix`.

    Example:

        >>> LatentPrefixConfig(length=4, layers=[0]).length
        4
    """

    type: str = field(default="latent_prefix", init=False)
    layers: list[int] | None = option(None, "In the attention of which layers; None is all that are read.")
    length: int = option(8, "Keys and values per layer.", low=1, high=4096)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        super().resolve(canvas, backbone, reading)
        if not backbone.can_add_to_attention(canvas.samples):
            name = type(backbone.base).__name__
            what = f"{self.type!r}, and the attention of a {name} cannot be replaced: nothing would train"
            raise ConfigError("ReprogramConfig.program", what, "another latent program", "latent_deep")


class LatentPrefix(LatentProgram):
    """attention(q, K, V) + tanh(g) attention(q, K_p, V_p) in each chosen layer of the encoder.

    Parameters: `gate` (layers,) at 0; `keys` and `values` (layers, length, width), normal of deviation 0.02: at first
    only the gate learns, and the others follow it.

    Paper: prefixes of 2210.06175, gated, which begins without effect.
    """

    Options = LatentPrefixConfig
    zero_effect_at_start = True
    learning_rate = 3e-3  # chosen as that of latent_insert: from 1e-2 on it loses what the map alone knows
    paper = "2210.06175"
    example = {"length": 3}
    xfail = {"gradient_reaches_all": "the gate is 0, so that keys and values learn from the second step on"}

    def __init__(self, options: LatentPrefixConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        shape = len(options.layers), options.length, backbone.width
        self.gate = nn.Parameter(torch.zeros(shape[0]))
        self.keys = nn.Parameter(torch.zeros(shape))
        self.values = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        normal(self.keys, DEVIATION, generator)
        normal(self.values, DEVIATION, generator)

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        rows = zip(self.options.layers, self.gate.tanh(), self.keys.clone(), self.values.clone(), strict=True)
        return tuple((f"attention:{i}", partial(_attended, gate=g, keys=k, values=v)) for i, g, k, v in rows)


def _attended(query: Tensor, scaling: float, gate: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(batch, time, heads, size) from queries (batch, heads, time, size) and (length, width) of keys and values."""
    heads = query.shape[1]
    keys, values = (
        each.unflatten(-1, (heads, -1)).transpose(0, 1) for each in (keys, values)
    )  # (heads, length, size)
    wider = query.shape[-1] - keys.shape[-1]  # Moonshine fills up its heads to a multiple of 8
    weights = (query[..., : keys.shape[-1]].to(keys.dtype) @ keys.transpose(1, 2) * scaling).softmax(-1)
    return gate * F.pad((weights @ values).transpose(1, 2), (0, wider))
