"""`bayesian`: each source label votes for the target labels that it was seen with (BLM, BLM+)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError
from ..registry import option
from ._scores import ScoreMapping, ScoreOptions, probabilities
from .labels import frequencies


@dataclass
class BayesianConfig(ScoreOptions):
    """Options of `bayesian`.

    Example:

        >>> BayesianConfig(count="likely").smoothing
        1.0
    """

    type: str = field(default="bayesian", init=False)
    count: str = option(
        "first",
        "What is counted for a row: the source label that comes first (BLM), or the probabilities of the likely ones "
        "(BLM+).",
        choices=("first", "likely"),
    )
    smoothing: float = option(1.0, "Added to each source label's count: rare ones vote less.", low=0.0, high=1e6)
    share: float = option(
        0.15, "Of the source labels, those that are likely, where they count; at least one.", low=1e-6, high=1.0
    )

    def validate(self) -> None:
        super().validate()
        if self.share != BayesianConfig.share and self.count == "first":
            what = f"{self.share} with count='first', which has no use for it"
            raise ConfigError("BayesianConfig.share", what, f"{BayesianConfig.share}", "count='likely'")


class Bayesian(ScoreMapping):
    """score_c = sum over k of W[c, k] z_k, with W the normalised chance that a row is c where the base says k.

    F[k, c] counts the rows of c whose first source label is k (`first`), or sums the probabilities of k over the rows
    of c in which k is among the likely ones (`likely`). A[k, c] = F[k, c] / (sum_c F[k, c] + smoothing); each column
    of A, divided by its sum, is W. A label that no counted source label was seen with has weights 0.

    Paper: Bayesian-guided label mapping (2410.24018). Its released code takes int(0.15 times the number of *target*
    labels) as likely ones, which is none for six labels or fewer, and every weight is then NaN; here it is a share of
    the source labels.
    """

    Options = BayesianConfig
    paper = "2410.24018"
    example = {"count": "likely"}
    tries = ({}, {"count": "likely"})

    @classmethod
    def weigh_sources(
        cls, options: BayesianConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if options.count == "first":
            counts = frequencies(z, member, soft=False)  # (K, labels)
        else:
            p, few = probabilities(z), max(1, round(options.share * z.shape[1]))
            likely, seen = np.argsort(-p, axis=1, kind="stable")[:, :few], np.zeros_like(p)
            np.put_along_axis(seen, likely, np.take_along_axis(p, likely, 1), 1)
            counts = seen.T @ member
        matrix = conditional(counts, options.smoothing)
        return matrix.T, np.zeros(member.shape[1])


def conditional(counts: np.ndarray, smoothing: float) -> np.ndarray:
    """(K, labels) counts -> chances of the labels for each source label, every label's column divided by its sum.

    Example:

        >>> conditional(np.array([[3.0, 1.0], [1.0, 0.0]]), 1.0).round(4).tolist()
        [[0.5455, 1.0], [0.4545, 0.0]]
    """
    chances = counts / np.maximum(counts.sum(1, keepdims=True) + smoothing, 1e-300)
    return chances / np.maximum(chances.sum(0), 1e-12)
