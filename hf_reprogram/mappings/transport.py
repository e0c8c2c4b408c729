"""`transport`: source labels are shared out among the target labels at the least cost (optimal transport)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..registry import option
from ._scores import ScoreMapping, ScoreOptions
from .bayesian import conditional
from .labels import frequencies


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


class Transport(ScoreMapping):
    """score_c = sum over k of G[k, c] z_k / sum over k of G[k, c], with G the plan of least cost.

    G >= 0; its rows sum to a, how often each source label comes first (`mass` of it where that is below 1), its
    columns to b, the labels' shares of the rows. The cost of (k, c) is 1 - W[c, k] with the weights W of `bayesian`.
    Solved as a linear program (scipy's HiGHS). Source labels that never come first get nothing.

    Paper: label mapping by partial optimal transport (ECCV 2024, "Visual Prompting via Partial Optimal Transport").
    """

    Options = TransportConfig
    paper = "10.1007/978-3-031-72764-1"
    example = {"mass": 0.9}
    tries = ({},)

    @classmethod
    def weigh_sources(
        cls, options: TransportConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        counts = frequencies(z, member, soft=False)  # (K, labels)
        said = counts.sum(1) / len(z)
        cost = 1.0 - conditional(counts, options.smoothing)
        here = np.flatnonzero(said)
        plan = np.zeros_like(cost)
        plan[here] = transported(said[here], member.mean(0), cost[here], options.mass)
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
        raise ArithmeticError(found.message)
    return np.maximum(found.x, 0.0).reshape(cost.shape)
