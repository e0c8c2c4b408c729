"""`prototype`: the target label whose rows' mean is nearest."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..registry import option
from ._scores import STILL, ScoreMapping, ScoreOptions


@dataclass
class PrototypeConfig(ScoreOptions):
    """Options of `prototype`.

    Example:

        >>> PrototypeConfig(shape="shrunk").standardised
        True
    """

    type: str = field(default="prototype", init=False)
    shape: str = option(
        "round",
        "How distances are measured: alike in all directions (round), or by the covariance within the labels, shrunk "
        "(Ledoit and Wolf).",
        choices=("round", "shrunk"),
    )
    standardised: bool = option(True, "Divide each score by its deviation first: else large scores decide.")


class Prototype(ScoreMapping):
    """score_c = z' P m_c - m_c' P m_c / 2, with m_c the mean of the rows of c: the nearest mean has the largest score.

    P is the identity, or the inverse of the covariance of the rows about their label's mean, shrunk towards a multiple
    of the identity (scikit-learn's LedoitWolf). Labels may have different numbers of rows, one is enough; scores that
    never move count for nothing. Where each label has one row, nothing is known of directions: the shape is round.

    Papers: nearest class mean; with `shape="shrunk"` a linear discriminant (10.1016/S0047-259X(03)00096-4); of frozen
    language models ProtoVerb (2203.09770), whose released code needs as many rows of every label.
    """

    Options = PrototypeConfig
    paper = "2203.09770"
    example = {"shape": "round"}
    tries = ({}, {"shape": "shrunk"})

    @classmethod
    def weigh_sources(
        cls, options: PrototypeConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        spread = z.std(0)
        moves = spread >= STILL
        scale = np.where(moves, np.where(options.standardised, np.maximum(spread, STILL), 1.0), np.inf)
        z = z / scale  # (rows, K)
        means = (member / member.sum(0)).T @ z  # (labels, K)
        directions = means
        # Of one row a label nothing is known of a spread within labels.
        if options.shape == "shrunk" and moves.any() and member.sum(0).max() > 1:
            from sklearn.covariance import LedoitWolf

            within = LedoitWolf(assume_centered=True).fit((z - member @ means)[:, moves]).precision_
            directions = np.zeros_like(means)
            directions[:, moves] = means[:, moves] @ within
        return directions / scale, -0.5 * (directions * means).sum(1)
