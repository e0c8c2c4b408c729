"""How far a task's outputs lie from those of what a model was made for, and the bound that follows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data.rows import label_of
from ...mappings.labels import assigned, frequencies
from ..bound import bound, source_classes
from ..distances import sliced_wasserstein, together
from .measures import condensed
from .readings import Candidate, scores


def compared(
    source: list[dict[str, Any]], candidate: Candidate, values: dict[str, np.ndarray], y: np.ndarray, batch_size: int
) -> dict[str, dict[str, float]]:
    """By reading `sliced` and `sliced_error`, the sliced Wasserstein distance of standardised outputs; for a base's
    own classes also `bound`, `source_risk` and `distance` where the source rows name them.

    Raises:
        DataError: a source row that this base cannot read, or whose label is none of its classes.
    """
    read = candidate.read(source, batch_size).values
    found = {}
    for name, here in values.items():
        there = read[name]
        if scores(name):
            here, kept = condensed(here)
            there = condensed(there, kept)[0]
        distance, error = sliced_wasserstein(*together(here, there))
        found[name] = {"sliced": distance, "sliced_error": error}
    enough = "classes" in values and read["classes"].shape[1] >= len(candidate.labels)
    if enough and all(label_of(row) is not None for row in source):
        found["classes"] |= _bounded(source, candidate, values["classes"], read["classes"], y)
    return found


def _bounded(
    source: list[dict[str, Any]], candidate: Candidate, here: np.ndarray, there: np.ndarray, y: np.ndarray
) -> dict[str, float]:
    """The bound under the best assignment of one class of the base to each label."""
    names = candidate.model.backbone.base.config.id2label
    labels = source_classes(source, {int(i): str(name) for i, name in names.items()}, "source_rows")
    member = np.eye(len(candidate.labels))[y]
    stands_for = assigned(frequencies(here, member, soft=False), 1)[:, 0].tolist()
    made = bound(here, y, there, labels, stands_for)
    return {
        "bound": made.value,
        "risk": made.risk,
        "source_risk": made.mean_source_risk,
        "distance": made.mean_distance,
    }
