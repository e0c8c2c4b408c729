"""Estimating a mapping before the first step."""

from __future__ import annotations

from typing import Any

from .cache import FrozenRows


def estimate(model: Any, rows: Any, features: Any = None) -> None:
    """Fit the active mapping on the training rows where it is estimated and not yet fitted.

    Args:
        model: on every rank of a process group; each reads its share of the rows.
        rows: the training rows, live or frozen.
        features: what their integer labels stand for.
    """
    mapping = model.active_mapping()
    if not mapping.needs_fit:
        return
    if isinstance(rows, FrozenRows) and mapping.calibration_rows() is None:
        mapping.fit(rows.values, rows.labels)
    else:  # a mapping with rows of its own does not look at these
        model.fit_mapping(rows, features=features)
