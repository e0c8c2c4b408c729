"""`none`: rows laid out and embedded as they are. Zero parameters; the control of every other program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..batch import Batch
from ..registry import option
from ..template import parse
from .base import Program, ProgramOptions


@dataclass
class NoneConfig(ProgramOptions):
    """No program: the template alone.

    Example:

        >>> NoneConfig().template
        '{text}'
    """

    type: str = field(default="none", init=False)
    template: str = option("{text}", "Where the columns, words and the answer stand.")

    def validate(self) -> None:
        super().validate()
        parse(self.template, "NoneConfig.template")

    def layout(self) -> str | None:
        return self.template


class NoProgram(Program):
    """x -> x, of text and of sound. Bit-equal to the base on the same rows."""

    Options = NoneConfig
    accepts = gives = "any"
    zero_effect_at_start = True
    learning_rate = 0.0
    example = {"template": "{text} so{answer}"}

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        return batch
