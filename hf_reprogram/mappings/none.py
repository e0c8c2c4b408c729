"""`none`: no mapping. The base's own output and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Reading, Readout
from .base import Mapping, MappingOptions


@dataclass
class NoMappingConfig(MappingOptions):
    """No mapping.

    Example:

        >>> NoMappingConfig().type
        'none'
    """

    type: str = field(default="none", init=False)


class NoMapping(Mapping):
    """The base's own logits at all positions, (batch, time, vocabulary)."""

    Options = NoMappingConfig

    def reading(self) -> Reading:
        return Reading("base")

    def forward(self, readout: Readout) -> Tensor:
        return readout.values
