"""`auto`: several maps of the base's own scores together, or one that cross-validation shows to be better."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..registry import option
from ._scores import STILL, ScoreMapping
from .bayesian import Bayesian, BayesianConfig
from .linear import penalties_of, ridge
from .prototype import Prototype, PrototypeConfig
from .residual import Residual, ResidualConfig, commonest, spoken


logger = logging.getLogger(__name__)

Map = tuple[np.ndarray, np.ndarray]  # (labels, K) weights, (labels,) offsets
Fit = Callable[[np.ndarray, np.ndarray], Map]  # of (rows, K) scores and (rows, labels) one-hot
CHANCE = 0.05  # of a map that is no better: so small, or it is not taken


@dataclass
class AutoConfig(ResidualConfig):
    """Options of `auto`; `words` as of `residual`, which is one of the maps that are tried.

    Example:

        >>> AutoConfig(folds=10).centred
        True
    """

    type: str = field(default="auto", init=False)
    folds: int = option(5, "Parts of the rows, of which each is judged by the maps of the others.", low=2, high=1000)


class Auto(Residual):
    """Maps that err in different ways, summed: with `words` these and `residual`, else ridge, `bayesian` of likely
    places and the shrunk `prototype`, each divided by the spread of its scores over labels.

    Each of these alone, `prototype` round, `bayesian` of first places and `frequency` (one source label each, as
    `labels`) are judged beside the sum over stratified folds. The best of all is taken instead where a sign test over
    the rows that the two judge differently gives less than one chance in twenty that it is no better: among eight maps
    the best on few rows is the best by luck. Where a label has one row there are no folds: the words, else ridge.

    All are linear in the scores, and so is their sum: the fit is one matrix, whichever it was; `explain()` says which.
    The sums and the test were chosen on rows of the tasks of `scripts/benchmarks/mapping_study.py` that no draw of its
    table is judged by.
    """

    Options = AutoConfig
    one_each = False
    paper = "2202.10629"
    example = {"sources": 4}
    tries = ({},)

    def fit(self, values: Any, labels: Any) -> None:
        super().fit(values, labels)
        logger.info("auto: %s", self.found)

    def weigh_sources(self, options: AutoConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray) -> Map:
        tried = candidates(options, kept, member.shape[1])
        right = judged(tried, z, member, options.folds)
        chosen = choose(right, list(tried)[0]) if right else "words" if options.ids else "ridge"
        self.found = {"chosen": chosen, "accuracy": {name: float(marks.mean()) for name, marks in right.items()}}
        return tried[chosen](z, member)

    def explain(self) -> dict[str, Any]:
        return {**super().explain(), **getattr(self, "found", {})}


def candidates(options: AutoConfig, kept: np.ndarray, labels: int) -> dict[str, Fit]:
    """The maps that are tried, by name, the usual one first; `kept` (K,) are the numbers of the source labels."""

    def of(cls: type[ScoreMapping], given: Any) -> Fit:
        return lambda z, member: cls.weigh_sources(given, z, member, kept)

    found: dict[str, Fit] = {
        "ridge": ridged,
        "bayesian, likely": of(Bayesian, BayesianConfig(count="likely")),
        "prototype, shrunk": of(Prototype, PrototypeConfig(shape="shrunk")),
        "prototype": of(Prototype, PrototypeConfig()),
        "bayesian": of(Bayesian, BayesianConfig()),
    }
    if options.ids or len(kept) >= labels:
        found["residual"] = of(Residual, options)
    if len(kept) >= labels:
        found["frequency"] = lambda z, member: (commonest(z, member), np.zeros(labels))
    if options.ids:
        found["words"] = lambda z, member: (spoken(options, kept), np.zeros(labels))
    parts = ("words", "residual") if options.ids else ("ridge", "bayesian, likely", "prototype, shrunk")
    return {" + ".join(parts): summed([found[name] for name in parts]), **found}


def ridged(z: np.ndarray, member: np.ndarray) -> Map:
    """The ridge map of `linear`."""
    return ridge(z, member, penalties_of(z, member))[:2]


def summed(parts: Sequence[Fit]) -> Fit:
    """Maps as one: each is divided by the root mean square of its scores, a row's mean over labels left out."""

    def fit(z: np.ndarray, member: np.ndarray) -> Map:
        made = [part(z, member) for part in parts]
        scores = [z @ matrix.T + bias for matrix, bias in made]
        spread = [float((s - s.mean(1, keepdims=True)).std()) for s in scores]
        spread = [by if by > STILL else np.inf for by in spread]
        return tuple(sum(each[i] / by for each, by in zip(made, spread, strict=True)) for i in (0, 1))

    return fit


def judged(tried: dict[str, Fit], z: np.ndarray, member: np.ndarray, folds: int) -> dict[str, np.ndarray]:
    """Per map (rows,) 1 where a row, left out with its fold, is told right; {} where some label has one row only."""
    from sklearn.model_selection import StratifiedKFold

    y = member.argmax(1)
    folds = min(folds, int(member.sum(0).min()))
    if folds < 2:
        return {}
    right = {name: np.zeros(len(y)) for name in tried}
    for rest, part in StratifiedKFold(folds, shuffle=True, random_state=0).split(z, y):
        for name, make in tried.items():
            matrix, bias = make(z[rest], member[rest])
            right[name][part] = (z[part] @ matrix.T + bias).argmax(1) == y[part]
    return right


def choose(right: dict[str, np.ndarray], usual: str) -> str:
    """The best map where it is shown to be better than `usual`, else that.

    Args:
        right: per map (rows,) 1 where it tells the row right.
        usual: one of them.

    Example:

        >>> rows = np.ones(5)
        >>> choose({"ridge": rows, "bayesian": np.array([0, 0, 0, 0, 1])}, "bayesian")
        'bayesian'
        >>> choose({"ridge": rows, "bayesian": rows * 0}, "bayesian")
        'ridge'
    """
    from scipy.stats import binomtest

    best = max(right, key=lambda name: right[name].mean())
    more, fewer = int((right[best] > right[usual]).sum()), int((right[best] < right[usual]).sum())
    better = more and binomtest(more, more + fewer, alternative="greater").pvalue <= CHANCE
    return best if better else usual
