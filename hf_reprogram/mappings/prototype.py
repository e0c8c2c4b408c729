"""`prototype`: the target label whose rows' mean is nearest."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError
from ..registry import chosen, option
from ._scores import STILL, ScoreMapping, ScoreOptions


@dataclass
class PrototypeConfig(ScoreOptions):
    """Options of `prototype`.

    Example:

        >>> PrototypeConfig(shape="shrunk").standardised
        True
    """

    type: str = field(default="prototype", init=False)
    on: str = option(
        "auto",
        "As of the other maps of scores; or state: a hidden vector of any base, at length 1.",
        choices=("auto", "classes", "vocabulary", "state"),
    )
    pool: str = option(
        "answer",
        "Which state: answer slot, mean over text or clip, mean and deviation (statistics), or first position.",
        choices=("answer", "mean", "statistics", "first"),
    )
    shape: str = option(
        "round",
        "How distances are measured: alike in all directions (round), or by the covariance within the labels, shrunk "
        "(Ledoit and Wolf).",
        choices=("round", "shrunk"),
    )
    standardised: bool = option(True, "Divide each score by its deviation first: else large scores decide.")

    def validate(self) -> None:
        super().validate()
        idle = ("sources", "among", "centred") if self.on == "state" else ("pool",)
        odd = next((f for f in fields(self) if f.name in idle and chosen(self, f)), None)
        if odd is not None:
            what = f"{getattr(self, odd.name)!r} with on={self.on!r}, which has no use for it"
            fix = "on='state'" if odd.name == "pool" else "leave it out"
            raise ConfigError(f"PrototypeConfig.{odd.name}", what, "the default", fix)

    def reads(self) -> tuple[str, ...]:
        return ("state",) if self.on == "state" else super().reads()


class Prototype(ScoreMapping):
    """score_c = z' P m_c - m_c' P m_c / 2, with m_c the mean of the rows of c: the nearest mean has the largest score.

    P is the identity, or the inverse of the covariance of the rows about their label's mean, shrunk towards a multiple
    of the identity (scikit-learn's LedoitWolf). Labels may have different numbers of rows, one is enough; scores that
    never move count for nothing. Where each label has one row, nothing is known of directions: the shape is round.

    With `on="state"` z is the base's hidden vector (batch, dim) divided by its length: ProtoVerb without its training.

    Papers: nearest class mean; with `shape="shrunk"` a linear discriminant (10.1016/S0047-259X(03)00096-4); of frozen
    language models ProtoVerb (2203.09770), whose released code needs as many rows of every label.
    """

    Options = PrototypeConfig
    paper = "2203.09770"
    example = {"shape": "round"}
    tries = ({}, {"shape": "shrunk"})

    def read_from(self, backbone: Any) -> tuple[Reading, int, dict[int, str]]:
        if self.options.on != "state":
            return super().read_from(backbone)
        return Reading("state", pool=self.options.pool), backbone.state_size(self.options.pool), {}

    def _sized(self, values: Tensor) -> Tensor:
        """States at length 1, scores as they are."""
        return nn.functional.normalize(values.float(), dim=1) if self.options.on == "state" else values

    def forward(self, readout: Readout) -> Tensor:
        return super().forward(replace(readout, values=self._sized(readout.values)))

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        super().fit(self._sized(values), labels)

    def explain(self) -> dict[str, Any]:
        return super().explain() if self.options.on != "state" else {"reads": f"state, {self.options.pool}"}

    def label_rows(self) -> Tensor | None:
        return self.matrix if self.options.on == "state" else None

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        return super().weights() if self.options.on != "state" else None

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
