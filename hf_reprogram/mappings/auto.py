"""`auto`: the map of the base's own scores that cross-validation on the rows of the estimate finds best."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..registry import option
from ._scores import ScoreMapping
from .bayesian import Bayesian, BayesianConfig
from .labels import frequencies, greedy
from .linear import penalties_of, ridge
from .prototype import Prototype, PrototypeConfig
from .residual import Residual, ResidualConfig


logger = logging.getLogger(__name__)

Map = tuple[np.ndarray, np.ndarray]  # (labels, K) weights, (labels,) offsets


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
    """One of the maps below, each linear in the scores: the one with the best accuracy over stratified folds.

    `ridge` (as `linear`), `residual`, `prototype` round and shrunk, `bayesian` of first places and of likely ones,
    `frequency` (one source label each, as `labels`); with `words` also these alone, which learn from no row. Ridge is
    taken unless another is better by more than one standard error of the difference over rows: among seven maps the
    best on few rows is the best by luck. Where a label has one row there are no folds: the words, else ridge.

    The fit is one matrix, whichever it was; `explain()` says which.
    """

    Options = AutoConfig
    paper = "2202.10629"
    example = {"sources": 4}
    tries = ({},)

    def fit(self, values: Any, labels: Any) -> None:
        super().fit(values, labels)
        logger.info("auto: %s", self.found)

    def weigh_sources(self, options: AutoConfig, z: np.ndarray, member: np.ndarray, kept: np.ndarray) -> Map:
        tried = candidates(options, kept)
        right = judged(tried, z, member, options.folds)
        chosen = choose(right, "words" if options.ids else "ridge")
        self.found = {"chosen": chosen, "accuracy": {name: float(marks.mean()) for name, marks in right.items()}}
        return tried[chosen](z, member)

    def explain(self) -> dict[str, Any]:
        return {**super().explain(), **getattr(self, "found", {})}


def candidates(options: AutoConfig, kept: np.ndarray) -> dict[str, Callable[[np.ndarray, np.ndarray], Map]]:
    """The maps that are tried, by name, as functions of (z, member)."""

    def of(cls: type[ScoreMapping], given: Any) -> Callable[[np.ndarray, np.ndarray], Map]:
        return lambda z, member: cls.weigh_sources(given, z, member, kept)

    found = {
        "ridge": ridged,
        "residual": of(Residual, options),
        "prototype": of(Prototype, PrototypeConfig()),
        "prototype, shrunk": of(Prototype, PrototypeConfig(shape="shrunk")),
        "bayesian": of(Bayesian, BayesianConfig()),
        "bayesian, likely": of(Bayesian, BayesianConfig(count="likely")),
        "frequency": lambda z, member: picked(greedy(frequencies(z, member, soft=False), 1)[:, 0], z.shape[1]),
    }
    if options.ids:
        found["words"] = lambda z, member: picked(np.searchsorted(kept, options.ids), z.shape[1])
    return found


def ridged(z: np.ndarray, member: np.ndarray) -> Map:
    """The ridge map of `linear`."""
    return ridge(z, member, penalties_of(z, member))[:2]


def picked(speaking: np.ndarray, size: int) -> Map:
    """One source label (labels,) for each target label as a map."""
    return np.eye(size)[speaking], np.zeros(len(speaking))


def judged(
    tried: dict[str, Callable[[np.ndarray, np.ndarray], Map]], z: np.ndarray, member: np.ndarray, folds: int
) -> dict[str, np.ndarray]:
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
    """The best map; ridge where nothing is better by more than a standard error, `usual` where nothing was judged.

    Example:

        >>> rows = np.ones(100)
        >>> choose({"ridge": np.append([0, 0], rows), "bayesian": np.append([0, 1], rows)}, "ridge")
        'ridge'
        >>> choose({"ridge": rows * 0, "bayesian": rows}, "ridge"), choose({}, "words")
        ('bayesian', 'words')
    """
    if not right:
        return usual
    best = max(right, key=lambda name: right[name].mean())
    gap = right[best] - right["ridge"]
    return best if gap.mean() > gap.std(ddof=1) / len(gap) ** 0.5 else "ridge"
