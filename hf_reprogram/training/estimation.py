"""Estimating a mapping before the first step."""

from __future__ import annotations

from typing import Any


def estimate(model: Any, rows: Any, features: Any = None) -> None:
    """Fit the active mapping on the training rows where it is estimated and not yet fitted.

    Args:
        model: on every rank of a process group; each reads its share of the rows.
        rows: the training rows, live or frozen.
        features: what their integer labels stand for.
    """
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows, features=features)
