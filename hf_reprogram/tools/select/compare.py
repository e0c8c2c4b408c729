"""How far a task's outputs lie from those of what a model was made for, and the bound that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.rows import label_of
from ...errors import DataError
from ...mappings.labels import assigned, frequencies
from ..bound import bound
from ..distances import sliced_wasserstein, together
from .measures import condensed
from .readings import Candidate, scores


@dataclass(frozen=True)
class Source:
    """Rows of what the models were made for; their labels, where they have any, are names of the base's classes."""

    rows: list[dict[str, Any]]


def compared(
    source: Source, candidate: Candidate, values: dict[str, np.ndarray], y: np.ndarray, batch_size: int
) -> dict[str, dict[str, float]]:
    """By reading `sliced` and `sliced_error`, the sliced Wasserstein distance of standardised outputs; for a base's
    own classes also `bound`, `source_risk` and `distance` where the source rows name them.

    Raises:
        DataError: a source row that this base cannot read, or whose label is none of its classes.
    """
    read = candidate.read(source.rows, batch_size).values
    found = {}
    for name, here in values.items():
        there = read[name]
        if scores(name):
            here, kept = condensed(here)
            there = condensed(there, kept)[0]
        distance, error = sliced_wasserstein(*together(here, there))
        found[name] = {"sliced": distance, "sliced_error": error}
    enough = "classes" in read and read["classes"].shape[1] >= len(candidate.labels)
    if enough and all(label_of(row) is not None for row in source.rows):
        found["classes"] |= _bounded(source, candidate, values["classes"], read["classes"], y)
    return found


def _bounded(
    source: Source, candidate: Candidate, here: np.ndarray, there: np.ndarray, y: np.ndarray
) -> dict[str, float]:
    """The bound under the best assignment of one class of the base to each label."""
    names = {str(name): int(i) for i, name in candidate.model.backbone.base.config.id2label.items()}
    labels = []
    for i, row in enumerate(source.rows):
        label = label_of(row)
        known = label if isinstance(label, int) else names.get(str(label))
        if known is None:
            raise DataError(f"source_rows[{i}]['label']", f"{label!r}", f"a class of the base: {', '.join(names)}")
        labels.append(known)
    member = np.eye(len(candidate.labels))[y]
    stands_for = assigned(frequencies(here, member, soft=False), 1)[:, 0].tolist()
    made = bound(here, y, there, np.array(labels), stands_for)
    weigh = np.array(made.share)
    return {
        "bound": made.value,
        "risk": made.risk,
        "source_risk": float(weigh @ made.source_risk),
        "distance": float(weigh @ made.distance),
    }
