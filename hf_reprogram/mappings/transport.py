"""`transport`: source labels are shared out among the target labels at the least cost (optimal transport)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError, first_line
from ..registry import option
from ._scores import ScoreMapping, ScoreOptions
from .bayesian import conditional
from .labels import frequencies


CLOSE = 1e-3  # of the mass, 1 in all, that a plan may misplace


@dataclass
class TransportConfig(ScoreOptions):
    """Options of `transport`.

    Example:

        >>> TransportConfig(mass=0.8).smoothing
        1.0
    """

    type: str = field(default="transport", init=False)
    mass: float = option(
        1.0,
        "How much of what the base says is shared out; below 1 what fits no label is left over.",
        low=0.01,
        high=1.0,
    )
    smoothing: float = option(1.0, "As of `bayesian`, whose weights are the gain.", low=0.0, high=1e6)
    entropy: float = option(
        0.0, "Of the plan, in units of cost: spreads it out (extra `transport`); 0 is exact.", low=0.0, high=100.0
    )

    def validate(self) -> None:
        super().validate()
        if self.entropy and self.mass < 1:
            what = f"{self.entropy} with mass={self.mass}"
            raise ConfigError("TransportConfig.entropy", what, "one of the two", "mass=1, or entropy=0")


class Transport(ScoreMapping):
    """score_c = sum over k of G[k, c] z_k / sum over k of G[k, c], with G the plan of least cost.

    G >= 0; its rows sum to a, how often each source label comes first (`mass` of it where that is below 1), its
    columns to b, the labels' shares of the rows. The cost of (k, c) is 1 - W[c, k] with the weights W of `bayesian`.
    Solved as a linear program (scipy's HiGHS). Source labels that never come first get nothing. With `entropy` e the
    plan minimises <G, cost> + e sum of G (log G - 1) instead (POT's Sinkhorn), and every source label that ever comes
    first counts a little for all.

    Paper: label mapping by partial optimal transport (ECCV 2024, "Visual Prompting via Partial Optimal Transport").
    """

    Options = TransportConfig
    paper = "10.1007/978-3-031-72764-1"
    example = {"smoothing": 0.5}
    tries = ({},)

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        super().fit(values, labels)
        empty = [name for name, row in zip(self.labels, self.matrix, strict=True) if not row.any()]
        if empty:
            what = f"{self.options.mass} leaves no source label for {empty}, whose score is 0 for every row"
            warnings.warn(f"TransportConfig.mass: {what}. Fix: mass=1", UserWarning, stacklevel=3)

    @classmethod
    def weigh_sources(
        cls, options: TransportConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        counts = frequencies(z, member, soft=False)  # (K, labels)
        said = counts.sum(1) / len(z)
        cost = 1.0 - conditional(counts, options.smoothing)
        here = np.flatnonzero(said)
        plan = np.zeros_like(cost)
        a, b = said[here], member.mean(0)
        if options.entropy:
            plan[here] = spread_out(a, b, cost[here], options.entropy)
        else:
            plan[here] = transported(a, b, cost[here], options.mass)
        matrix = plan / np.maximum(plan.sum(0), 1e-12)
        return matrix.T, np.zeros(member.shape[1])


def transported(a: np.ndarray, b: np.ndarray, cost: np.ndarray, mass: float = 1.0) -> np.ndarray:
    """The plan of least cost: (K, labels) >= 0, rows at most a, columns at most b, `mass` in all.

    With `mass` 1 and sums of 1 that is exact transport.

    Example:

        >>> transported(np.array([0.5, 0.5]), np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[0.0, 0.5], [0.5, 0.0]]
    """
    from scipy.optimize import linprog
    from scipy.sparse import identity, kron, vstack

    rows, columns = cost.shape
    sums = vstack(
        [kron(identity(rows), np.ones((1, columns))), kron(np.ones((1, rows)), identity(columns))], format="csr"
    )
    total = np.ones((1, cost.size))
    found = linprog(
        cost.flatten(), A_ub=sums, b_ub=np.concatenate([a, b]), A_eq=total, b_eq=[mass * min(a.sum(), b.sum())]
    )
    if found.x is None:
        what = f"no transport plan ({found.message})"
        raise DataError("fit_mapping(rows)", what, "shares of source and target labels that sum to the same")
    return np.maximum(found.x, 0.0).reshape(cost.shape)


def spread_out(a: np.ndarray, b: np.ndarray, cost: np.ndarray, entropy: float) -> np.ndarray:
    """The plan of least cost and much entropy: (K, labels) > 0, rows sum to a, columns to b.

    Raises:
        ConfigError: POT is not there.  DataError: so little entropy that Sinkhorn's iterations do not end.
    """
    try:
        import ot
    except ImportError as error:
        fix = "pip install 'hf-reprogram[transport]', or entropy=0"
        what = f"{entropy}, and POT is not usable ({first_line(error)})"
        raise ConfigError("TransportConfig.entropy", what, "POT", fix) from error
    plan = ot.sinkhorn(a, b, cost, entropy, method="sinkhorn_log", warn=False)
    if not np.abs(plan.sum(0) - b).max() + np.abs(plan.sum(1) - a).max() < CLOSE:
        what, fix = f"no transport plan within reach at entropy={entropy}", "a larger entropy, or 0: the exact plan"
        raise DataError("fit_mapping(rows)", what, "iterations that end", fix)
    return plan
