"""A bound on the target risk of a reprogrammed model, in the form that is true.

Voice2Series (2106.09296, Theorem 1; again in 2202.10629) bounds the target risk by the source risk and the Wasserstein
distance between all source and all target scores. As printed that is false: two samples of one distribution have
distance zero and may still be told wrongly (a test holds the counterexample). What holds compares class by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.rows import label_of
from ..errors import ConfigError, DataError
from .distances import wasserstein


@dataclass(frozen=True)
class Bound:
    """The bound beside what it is made of.

    Args:
        value: at least the target risk; above sqrt(2) it says nothing.
        risk: of the target, E |softmax(z) - one-hot|_2.
        error: share of target rows told wrongly; at most sqrt(2) times `risk`.
        source_risk: by target label, that of the source class it stands for.
        distance: by target label, W_1 between its scores and those of its source class.
        share: by target label, its share of the rows.
    """

    value: float
    risk: float
    error: float
    source_risk: tuple[float, ...]
    distance: tuple[float, ...]
    share: tuple[float, ...]

    @property
    def mean_source_risk(self) -> float:
        """Of the labels, each with its share."""
        return float(np.dot(self.share, self.source_risk))

    @property
    def mean_distance(self) -> float:
        """The same of the distances."""
        return float(np.dot(self.share, self.distance))


def source_classes(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str], where: str) -> np.ndarray:
    """(rows,) numbers of the base's classes that labelled source rows are of.

    Args:
        rows: with a label, a class by its name or its number.
        names: of the classes.
        where: what an error calls the rows.

    Raises:
        DataError: a label that is no class.
    """
    numbers, found = {name: i for i, name in names.items()}, []
    for i, row in enumerate(rows):
        label = label_of(row)
        known = numbers.get(str(label), label)
        if known not in names:
            expected = "a class of the base: " + ", ".join(names.values())
            raise DataError(f"{where}[{i}]['label']", f"{label!r}", expected)
        found.append(known)
    return np.array(found)


def risks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(rows,) |softmax(z) - one-hot|_2, at most sqrt(2)."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1.0
    return np.linalg.norm(p, axis=1)


def bound(
    target: np.ndarray, labels: np.ndarray, source: np.ndarray, source_labels: np.ndarray, stands_for: list[int]
) -> Bound:
    """R_T <= sum over labels c of p_c (R_S,h(c) + W_1(z | c, z_S | h(c)) / 2), h one source class for each label.

    The softmax is 1/2-Lipschitz; inside a class both samples share their one-hot vector, so the best coupling of their
    scores carries the source class's risk over. It needs labelled source rows, and is usually above 1: it ranks
    programs and models, and promises nothing.

    Args:
        target: (rows, K) scores of the programmed model on target rows.  labels: (rows,).
        source: (n, K) scores of the plain model on source rows.  source_labels: (n,).
        stands_for: the source class of each target label, no two alike.

    Raises:
        ConfigError: a source class that stands for two labels.
        DataError: a label or a source class without rows.
    """
    if len(set(stands_for)) < len(stands_for):
        raise ConfigError("bound(stands_for)", f"{stands_for!r}", "a source class of its own for each label")
    own = np.asarray(stands_for)[labels]
    right, told = risks(source, source_labels), risks(target, own)
    source_risk, distance, share = [], [], []
    for c, k in enumerate(stands_for):
        here, there = target[labels == c], source[source_labels == k]
        if not len(here) or not len(there):
            what = f"no row of {'label ' + str(c) if not len(here) else 'source class ' + str(k)}"
            raise DataError("bound", what, "rows of every label and of its source class")
        source_risk.append(float(right[source_labels == k].mean()))
        distance.append(wasserstein(here, there))
        share.append(len(here) / len(target))
    value = float(np.dot(share, np.add(source_risk, np.multiply(0.5, distance))))
    wrong = float((target.argmax(1) != own).mean())
    return Bound(value, float(told.mean()), wrong, tuple(source_risk), tuple(distance), tuple(share))
