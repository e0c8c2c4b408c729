"""`none`: no mapping. The base's own output and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..batch import Reading, Readout
from ..errors import ConfigError
from .base import Mapping, MappingOptions


@dataclass
class NoMappingConfig(MappingOptions):
    """No mapping.

    Example:

        >>> NoMappingConfig().type
        'none'
    """

    type: str = field(default="none", init=False)

    def reads(self) -> tuple[str, ...]:
        return ("base", "classes")


class NoMapping(Mapping):
    """The base's own output: logits at all positions (batch, time, vocabulary), or of its own classes (batch, classes)
    in the order of `base.config.id2label`, in which `labels` may then be given."""

    Options = NoMappingConfig

    def __init__(self, options: NoMappingConfig, backbone: Any, labels: list[str] | None, problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        self.kind = "classes" if "classes" in backbone.gives else "base"
        if self.kind == "classes" and labels is not None and len(labels) != backbone.classes:
            raise ConfigError(
                "ReprogramConfig.labels",
                f"{len(labels)} labels for the base's {backbone.classes} classes without a mapping",
                "one for each class, in their order",
                "mapping='labels' maps the base's classes to yours",
            )

    def reading(self) -> Reading:
        return Reading(self.kind)

    def forward(self, readout: Readout) -> Tensor:
        return readout.values
