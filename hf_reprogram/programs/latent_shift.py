"""`latent_shift`: one learned vector added to all hidden states before chosen layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Reading
from ..registry import option
from ._latent import Hook, LatentProgram, LayerOptions, before


@dataclass
class LatentShiftConfig(LayerOptions):
    """Options of `latent_shift`.

    Example:

        >>> LatentShiftConfig(layers=[0, -1]).per_frame
        False
    """

    type: str = field(default="latent_shift", init=False)
    layers: list[int] | None = option([0], "Before which layers; None is all that are read.")
    per_frame: bool = option(False, "A vector for each position, not one for all.")
    positions: int | None = option(
        None, "Filled in: positions of the canvas, where there is a vector for each.", low=1, high=10**6
    )

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        super().resolve(canvas, backbone, reading)
        self.positions = backbone.positions(canvas.samples) if self.per_frame else None


class LatentShift(LatentProgram):
    """h' = h + s before each chosen layer.

    Parameters: `shift` (layers, 1, width), or (layers, positions, width); 0 at the start.
    """

    Options = LatentShiftConfig
    zero_effect_at_start = True
    learning_rate = 1e-2
    paper = "ours"

    def __init__(self, options: LatentShiftConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.shift = nn.Parameter(torch.zeros(len(options.layers), options.positions or 1, backbone.width))

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        pairs = zip(self.options.layers, self.shift.clone(), strict=True)
        return tuple((f"layer:{i}", before(partial(_shifted, shift=shift))) for i, shift in pairs)


def _shifted(hidden: Tensor, shift: Tensor) -> Tensor:
    return hidden + shift.to(hidden.dtype)
