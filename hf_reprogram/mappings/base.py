"""The contract of a mapping: source outputs to target labels, and their loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError, UsageError
from ..losses import LOSSES
from ..registry import Options


@dataclass
class MappingOptions(Options):
    """Options of a mapping."""

    kind: ClassVar[str] = "mapping"

    def labels(self) -> list[str] | None:
        """Target labels that the options name, in order; None where they name none."""
        return None

    def label_words(self) -> dict[str, dict[str, Any]]:
        """By label, the words that stand for it with their token ids; empty where labels have no words."""
        return {}

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        """Fill in what needs a tokenizer (words to token ids), once, so that loading needs none."""


class Mapping(nn.Module):
    """Base class of mappings. A subclass states `reading` and `forward`; it never sees a program.

    Class facts:
        Options, paper, example, xfail: as for programs.
        learning_rate: a rate that works for its parameters.

    Args:
        options: an instance of Options, resolved.
        backbone: tells shapes; it is not kept.
        labels: names of the target labels, or None.
        problem_type: key of `losses.LOSSES`.
    """

    Options: ClassVar[type[MappingOptions]]
    learning_rate: ClassVar[float] = 1e-3
    paper: ClassVar[str] = ""
    example: ClassVar[dict[str, Any]] = {}
    xfail: ClassVar[dict[str, str]] = {}

    def __init__(self, options: MappingOptions, backbone: Any, labels: list[str] | None, problem_type: str) -> None:
        super().__init__()
        self.options, self.labels, self.problem_type = options, labels, problem_type
        if self.estimated != "never":
            # Saved with the rest: a loaded map knows whether it was ever fitted.
            self.register_buffer("fitted", torch.zeros(1, dtype=torch.uint8))

    @property
    def estimated(self) -> str:
        """When the map is estimated from data rather than by gradients: `never`, `once` or `running`."""
        return "never"

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must still be called."""
        return self.estimated != "never" and not bool(self.fitted)

    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        """Set the parameters' start, random numbers from `generator` only."""

    def reading(self) -> Reading:
        """What to read from the base."""
        raise NotImplementedError

    def calibration_rows(self) -> list[str] | None:
        """Texts of the mapping's own that `fit` needs no user rows for; None where it needs the user's rows."""
        return None

    @property
    def fit_needs_labels(self) -> bool:
        """Whether the rows for `fit` must carry labels."""
        return False

    def forward(self, readout: Readout) -> Tensor:
        """Target logits (batch, classes) from a readout."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        """The loss of the problem type, a scalar."""
        return LOSSES[self.problem_type](logits, labels, num_items)

    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        """Estimate the map from the readouts (rows, K) of all rows and their labels (rows,)."""
        raise UsageError(f"{type(self).__name__}.fit", "this mapping estimates nothing", fix="train it")

    def explain(self) -> dict[str, Any]:
        """What the map does, as plain values."""
        return {}


def one_token(tokenizer: Any, word: str, where: str) -> int:
    """The token id of a label word; a word of several tokens cannot be read at one position.

    Raises:
        ConfigError: several tokens, or unknown to the tokenizer; names them, and the spelling that would do.
    """
    if tokenizer is None:
        raise ConfigError(where, f"{word!r} without a tokenizer", fix="pass processing_class=tokenizer")
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    several = f"{word!r} is {len(ids)} tokens {tokenizer.convert_ids_to_tokens(ids)}"
    other = word[1:] if word.startswith(" ") else " " + word
    twin = tokenizer(other, add_special_tokens=False)["input_ids"]
    fix = (
        f"{other!r} is one token" if len(twin) == 1 and twin[0] != tokenizer.unk_token_id else "choose a commoner word"
    )
    raise ConfigError(
        where, several if len(ids) != 1 else f"{word!r} is unknown to the tokenizer", "one known token", fix
    )
