"""The contract of a mapping: source outputs to target labels, and their loss."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Batch, Reading, Readout
from ..errors import ConfigError, DataError, UsageError
from ..losses import LOSSES
from ..metrics import metrics
from ..registry import Options, option
from ..symbols import Targets


UNEVEN = 0.5  # rho above which scores want to be centred


@dataclass
class MappingOptions(Options):
    """Options of a mapping.

    A mapping that writes texts says so by its `problem_type`, and says what ids a text is and what text ids are.
    """

    kind: ClassVar[str] = "mapping"
    problem_type: ClassVar[str | None] = None  # where only one suits

    def labels(self) -> list[str] | None:
        """Target labels that the options name, in order; None where they name none."""
        return None

    def reads(self) -> tuple[str, ...]:
        """Kinds of Reading by which the mapping can be had with these options; the base must give one of them."""
        return ("rows",)

    def continuations(self) -> list[list[int]] | None:
        """Token ids of every label word, where words of several tokens are scored; None where one position is read."""
        return None

    def targets(self) -> Targets | None:
        """What rows are laid out for, where symbols are read at positions; None where they are not."""
        return None

    def label_words(self) -> dict[str, dict[str, Any]]:
        """By label, the words that stand for it with their token ids; empty where labels have no words."""
        return {}

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        """Fill in what needs a tokenizer (words to token ids), once, so that loading needs none."""

    def encode(self, text: str, tokenizer: Any, where: str) -> list[int]:
        """Ids of a target text, as the loss takes them.

        Raises:
            DataError: a text that cannot be written.
        """
        raise NotImplementedError

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        """The text of ids that `Mapping.write` gives."""
        raise NotImplementedError

    def suits(self, gives: frozenset[str], base: str) -> None:
        """Raise a ConfigError where a base gives nothing that the mapping reads.

        Args:
            gives: kinds of Reading that the base can answer.
            base: its class.
        """
        if not gives & set(self.reads()):
            raise ConfigError(
                "ReprogramConfig.mapping",
                f"{self.type!r} reads {' or '.join(self.reads())}, and a {base} gives {', '.join(sorted(gives))}",
                "a mapping that reads one of these",
                "linear with on='state' reads any model, labels a classifier, verbalizer a language model "
                "(AutoModelForCausalLM, AutoModelForMaskedLM), transcript a model that writes, ctc another one that "
                "hears: on='tokens' its CTC head, on='state' its encoder",
            )


@dataclass
class EstimatedOptions(MappingOptions):
    """Options of a mapping that is estimated from rows, which may be done again while a program trains under it."""

    refit_every: int | None = option(
        None, "Epochs of training after which the map is estimated anew; None keeps the first.", low=1, high=10**6
    )
    refit_until: float = option(0.75, "Share of training after which it stays as it is.", low=0.0, high=1.0)


class Mapping(nn.Module):
    """Base class of mappings. A subclass states `reading` and `forward`; it never sees a program.

    Class facts:
        Options, paper, example, xfail: as for programs.
        learning_rate: a rate that works for its parameters.
        tries: options by which `search_mappings` tries it.

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
    tries: ClassVar[tuple[dict[str, Any], ...]] = ()

    def __init__(self, options: MappingOptions, backbone: Any, labels: list[str] | None, problem_type: str) -> None:
        super().__init__()
        self.options, self.labels, self.problem_type = options, labels, problem_type
        self.rows_per_example = 1  # laid out rows that make one row of the user's: one per word for continuations
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", None, persistent=False)  # from the config, so not saved
        if self.estimated != "never":
            # Saved with the rest: a loaded map knows whether it was ever fitted.
            self.register_buffer("fitted", torch.zeros(1, dtype=torch.uint8))

    @property
    def estimated(self) -> str:
        """When the map is estimated from data rather than by gradients: `never` or `once`."""
        return "never"

    @property
    def fits_rows(self) -> bool:
        """Whether the map is estimated from the user's rows, and not from texts of its own."""
        return self.estimated != "never" and self.calibration_rows() is None

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must still be called."""
        return self.estimated != "never" and not bool(self.fitted)

    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        """Set the parameters' start, random numbers from `generator` only."""

    def reading(self) -> Reading:
        """What to read from the base."""
        raise NotImplementedError

    def fit_reading(self) -> Reading:
        """What `fit` reads, where that is more than what a fitted map reads."""
        return self.reading()

    def calibration_rows(self) -> list[str] | None:
        """Texts of the mapping's own that `fit` needs no user rows for; None where it needs the user's rows."""
        return None

    @property
    def fit_needs_labels(self) -> bool:
        """Whether the rows for `fit` must carry labels."""
        return False

    @property
    def fit_weighs(self) -> bool:
        """Whether `fit` heeds `class_weight`, and not only the loss."""
        return False

    def forward(self, readout: Readout) -> Tensor:
        """Target logits (batch, classes) from a readout."""
        raise NotImplementedError

    def write(self, batch: Batch, backbone: Any) -> list[tuple[list[int], float]]:
        """Of a mapping that writes texts: ids and probability of what each row says, from the programs' batch."""
        raise NotImplementedError

    def weigh(self, class_weight: dict[str, float] | None) -> None:
        """Factors of the loss by label, and of the rows of a fit that heeds them."""
        if class_weight is not None:
            self.class_weight = torch.tensor([float(class_weight[label]) for label in self.labels])

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        """The loss of the problem type, a scalar."""
        return LOSSES[self.problem_type](logits, labels, num_items, self.class_weight)

    def measures(self, logits: Any, labels: Any) -> dict[str, float]:
        """Metrics of logits against labels, both arrays."""
        return metrics(logits, labels, self.problem_type)

    def fold(self, backbone: Any) -> tuple[MappingOptions, dict[str, Tensor]]:
        """Options and state of a mapping that does the same with fewer numbers; else its own."""
        return self.options, dict(self.state_dict())

    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        """Estimate the map from the readouts (rows, K) of all rows and their labels (rows,)."""
        raise UsageError(f"{type(self).__name__}.fit", "this mapping estimates nothing", fix="train it")

    def explain(self) -> dict[str, Any]:
        """What the map does, as plain values."""
        return {}

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        """Source labels, by name (or token id), and how much each counts for every target label: (labels, sources).

        None where the map reads numbers that have no names, as a hidden state's.
        """
        return None

    def label_rows(self) -> Tensor | None:
        """(labels, K) what the score of each target label is made of, of a map that reads a hidden state."""
        return None


def finite(values: Tensor) -> np.ndarray:
    """The readouts (rows, K) of a fit, in float64.

    Raises:
        DataError: numbers that are not finite, with their row.
    """
    z = values.detach().double().cpu().numpy()
    odd = np.flatnonzero(~np.isfinite(z).all(1))
    if len(odd):
        what, fix = "NaN or infinity in what the base gives", "look at the row; a base in float16 may need float32"
        raise DataError(f"fit_mapping(rows)[{odd[0]}]", what, "finite numbers", fix)
    return z


def warn_of_offsets(z: np.ndarray, where: str) -> None:
    """Warn where scores (rows, K) that are not centred differ by their outputs' means more than by their rows.

    rho is the deviation of the means over the mean deviation of an output (M§A.11: above a half, counts of first
    places say more of the base than of the rows).
    """
    rho = float(z.mean(0).std() / max(z.std(0).mean(), 1e-12))
    if rho > UNEVEN:
        first = len(np.unique(z.argmax(1)))
        what = f"False, and the outputs' means deviate {rho:.3g} (rho) times as much as an output does"
        covered = f"{first} of {z.shape[1]} come first for some row"
        warnings.warn(f"{where}.centred: {what}; {covered}. Fix: centred=True", UserWarning, stacklevel=4)


def members(y: np.ndarray, labels: list[str]) -> np.ndarray:
    """(rows, labels) 1 where a row has the label.

    Args:
        y: (rows,) ids, or (rows, labels) 0 and 1.

    Raises:
        DataError: a label without a row.
    """
    member = np.eye(len(labels))[y] if y.ndim == 1 else (y > 0.5).astype(float)
    missing = [name for name, n in zip(labels, member.sum(0), strict=True) if not n]
    if missing:
        fix = "add rows of them, or leave them out of the labels"
        raise DataError("fit_mapping(rows)", f"no row of {missing}", "rows of every label", fix)
    return member


def strongest(
    labels: list[str], sources: list[str | int], weights: Tensor, most: int = 5
) -> dict[str, dict[str | int, float]]:
    """Per target label the source labels that count most for or, below zero, against it, with their weights.

    Example:

        >>> strongest(["bird"], ["crow", "cat", "jay", "sun"], torch.tensor([[0.5, -1.0, 2.0, 0.0]]))
        {'bird': {'jay': 2.0, 'cat': -1.0, 'crow': 0.5}}
    """
    weights = weights.detach()  # (labels, sources)
    order = weights.abs().argsort(dim=1, descending=True, stable=True)[:, :most]
    found = zip(labels, order.tolist(), weights.gather(1, order).tolist(), strict=True)
    return {
        label: {sources[k]: round(weight, 4) for k, weight in zip(best, row, strict=True) if weight}
        for label, best, row in found
    }


def check_enough(size: int, count: int, each: int, where: str) -> None:
    """Raise a ConfigError where there are fewer than `each` source labels for every one of `count` target labels."""
    if size < count * each:
        raise ConfigError(
            where,
            f"{each} source labels for each of {count} target labels, and there are {size}",
            f"at most {size // count}" if size >= count else "fewer target labels",
            "linear maps any number of source outputs to any number of labels",
        )


def says_several(base: Any) -> bool:
    """Whether a row of a base's own task may have several of its classes (CREPE, taggers of sound events)."""
    return getattr(base.config, "problem_type", None) == "multi_label_classification"


def log_probabilities(logits: Tensor, several: bool) -> Tensor:
    """Log-probabilities of the base's classes (batch, K): each for itself where a row may have several of them."""
    return nn.functional.logsigmoid(logits) if several else logits.log_softmax(1)


_TOKENIZER = "pass processing_class=tokenizer; for a base that hears AutoProcessor, which holds one"


def word_tokens(tokenizer: Any, word: str, where: str) -> list[int]:
    """The token ids of a label word.

    Raises:
        ConfigError: no tokenizer, or a token that it does not know; says what would do.
    """
    if tokenizer is None:
        raise ConfigError(where, f"{word!r} without a tokenizer", fix=_TOKENIZER)
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise ConfigError(where, f"{word!r} is unknown to the tokenizer", "known tokens", _spelling(tokenizer, word))
    return ids


def one_token(tokenizer: Any, word: str, where: str) -> int:
    """The token id of a label word that is read at one position.

    Raises:
        ConfigError: several tokens, or unknown to the tokenizer; names them, and the spelling that would do.
    """
    ids = word_tokens(tokenizer, word, where)
    if len(ids) == 1:
        return ids[0]
    several = f"{word!r} is {len(ids)} tokens {tokenizer.convert_ids_to_tokens(ids)}"
    raise ConfigError(where, several, "one known token", _spelling(tokenizer, word))


def _spelling(tokenizer: Any, word: str) -> str:
    """What to try in the place of a word that will not do."""
    other = word[1:] if word.startswith(" ") else " " + word
    twin = tokenizer(other, add_special_tokens=False)["input_ids"]
    return (
        f"{other!r} is one token" if len(twin) == 1 and twin[0] != tokenizer.unk_token_id else "choose a commoner word"
    )
