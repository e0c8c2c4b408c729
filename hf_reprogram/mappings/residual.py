"""`residual`: words or one source label speak for each target label, and a ridge map corrects what that leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..registry import option
from ._scores import ScoreMapping, ScoreOptions
from .base import check_enough, one_token
from .labels import frequencies, greedy
from .linear import penalties_of, ridge


@dataclass
class ResidualConfig(ScoreOptions):
    """Options of `residual`.

    Example:

        >>> ResidualConfig(words={"bad": " terrible", "good": " great"}).labels()
        ['bad', 'good']
    """

    type: str = field(default="residual", init=False)
    words: dict[str, str | list[str]] | None = option(
        None,
        "By target label the word, or words, that speak for it, of a base with a vocabulary; None takes the source "
        "label that comes first most often for its rows.",
    )
    ids: list[int | list[int]] | None = option(None, "Filled in: token ids of `words`.")

    def validate(self) -> None:
        super().validate()
        if self.words is not None and self.on == "classes":
            raise ConfigError(
                f"{type(self).__name__}.words", "given with on='classes'", "on='vocabulary', or no words"
            )

    def labels(self) -> list[str] | None:
        return None if self.words is None else list(self.words)

    def reads(self) -> tuple[str, ...]:
        return super().reads() if self.words is None else ("rows",)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        super().resolve(tokenizer, labels)
        where = f"{type(self).__name__}.words"
        if self.words is not None and (tokenizer is not None or self.ids is None):
            listed = [listing(self.words[name]) for name in labels]
            if not all(listed):
                raise ConfigError(where, f"{self.words!r}", "at least one word for each label")
            self.ids = [
                [one_token(tokenizer, word, f"{where}[{name!r}]") for word in words]
                for name, words in zip(labels, listed, strict=True)
            ]
            if len(set(self.known)) < len(self.known):
                raise ConfigError(where, f"{self.words!r}", "a word of its own for each label")

    @property
    def known(self) -> list[int]:
        """Token ids of all words, label after label."""
        return [i for ids in self.ids or [] for i in listing(ids)]


def listing(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


class Residual(ScoreMapping):
    """score_c = gamma z_c* + B_c z + b_c, with z_c* the mean score of the words, or source label, that speak for c.

    gamma >= 0 is the least squares fit of the centred one-hot labels by the centred z_c*, one number for all; then
    ridge fits what is left, its penalty chosen by leave-one-out as for `linear` (gamma is not left out, so that error
    is slightly hopeful). A large penalty leaves the words alone, a small one gives the whole linear map.

    For few rows of each label where words or classes carry meaning.
    """

    Options = ResidualConfig
    one_each = True  # whether each target label needs a source label of its own
    paper = "2202.10629"
    example = {"sources": 4}
    tries = ({},)

    def __init__(self, options: ResidualConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        where = f"{type(options).__name__}.sources"
        words = len(options.known)
        if options.words is None and self.one_each:
            check_enough(len(self.indices), len(labels), 1, where)
        elif len(self.indices) < words:
            raise ConfigError(where, f"{len(self.indices)} with {words} words", f"at least {words}")

    @property
    def always(self) -> list[int]:
        return self.options.known

    @classmethod
    def weigh_sources(
        cls, options: ResidualConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        speaking = commonest(z, member) if options.ids is None else spoken(options, kept)
        matrix, bias, gamma, _ = corrected(z, member, speaking)
        return matrix + gamma * speaking, bias


def commonest(z: np.ndarray, member: np.ndarray) -> np.ndarray:
    """(labels, K) with 1 at the source label that comes first most often for the rows of each label."""
    return np.eye(z.shape[1])[greedy(frequencies(z, member, soft=False), 1)[:, 0]]


def spoken(options: ResidualConfig, kept: np.ndarray) -> np.ndarray:
    """(labels, K) the share of each source label in the words of each label; `kept` (K,) are their numbers."""
    shares = np.zeros((len(options.ids), len(kept)))
    for row, ids in zip(shares, options.ids, strict=True):
        row[np.searchsorted(kept, ids)] = 1 / len(listing(ids))
    return shares


def corrected(
    z: np.ndarray, member: np.ndarray, speaking: np.ndarray, penalties: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The ridge map of what `speaking` leaves.

    Args:
        z: (rows, K) scores.  member: (rows, labels) one-hot.  speaking: (labels, K) what speaks for each.
        penalties: the grid of `ridge`.

    Returns:
        matrix (labels, K), bias (labels,), gamma, the leave-one-out mean squared error.
    """
    said, target = z @ speaking.T, member - member.mean(0)
    own = said - said.mean(0)
    gamma = max(float((own * target).sum() / max(np.square(own).sum(), 1e-300)), 0.0)
    penalties = penalties_of(z, member) if penalties is None else penalties
    matrix, bias, _, error = ridge(z, member - gamma * said, penalties)
    return matrix, bias, gamma, error
