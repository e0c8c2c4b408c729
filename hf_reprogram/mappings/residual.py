"""`residual`: one source label speaks for each target label, and a ridge map corrects what that leaves."""

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
    words: dict[str, str] | None = option(
        None,
        "By target label the word that speaks for it, of a base with a vocabulary; None takes the source label that "
        "comes first most often for its rows.",
    )
    ids: list[int] | None = option(None, "Filled in: token ids of `words`.")

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
            self.ids = [one_token(tokenizer, self.words[name], f"{where}[{name!r}]") for name in labels]
            if len(set(self.ids)) < len(self.ids):
                raise ConfigError(where, f"{self.words!r}", "a word of its own for each label")


class Residual(ScoreMapping):
    """score_c = gamma z_c* + B_c z + b_c, with c* the source label that speaks for c.

    gamma >= 0 is the least squares fit of the centred one-hot labels by the centred z_c*, one number for all; then
    ridge fits what is left, its penalty chosen by leave-one-out as for `linear` (gamma is not left out, so that error
    is slightly hopeful). A large penalty leaves the words alone, a small one gives the whole linear map.

    For few rows of each label where words or classes carry meaning.
    """

    Options = ResidualConfig
    paper = "2202.10629"
    example = {"sources": 4}

    def __init__(self, options: ResidualConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        where = f"{type(options).__name__}.sources"
        if options.words is None:
            check_enough(len(self.indices), len(labels), 1, where)
        elif len(self.indices) < len(labels):
            what = f"{len(self.indices)} with {len(labels)} words"
            raise ConfigError(where, what, f"at least {len(labels)}")

    @property
    def always(self) -> list[int]:
        return self.options.ids or []

    @classmethod
    def weigh_sources(
        cls, options: ResidualConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if options.ids is None:
            speaking = greedy(frequencies(z, member, soft=False), 1)[:, 0]
        else:
            speaking = np.searchsorted(kept, options.ids)
        matrix, bias, gamma, _ = corrected(z, member, speaking)
        matrix[np.arange(len(speaking)), speaking] += gamma
        return matrix, bias


def corrected(
    z: np.ndarray, member: np.ndarray, speaking: np.ndarray, penalties: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The ridge map of what `speaking` source labels leave.

    Args:
        z: (rows, K) scores.  member: (rows, labels) one-hot.  speaking: (labels,) one source label for each.
        penalties: the grid of `ridge`.

    Returns:
        matrix (labels, K), bias (labels,), gamma, the leave-one-out mean squared error.
    """
    own, target = z[:, speaking] - z[:, speaking].mean(0), member - member.mean(0)
    gamma = max(float((own * target).sum() / max(np.square(own).sum(), 1e-300)), 0.0)
    penalties = penalties_of(z, member) if penalties is None else penalties
    matrix, bias, _, error = ridge(z, member - gamma * z[:, speaking], penalties)
    return matrix, bias, gamma, error
