"""The callback that estimates a mapping before the first step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .cache import FrozenRows


class EstimationCallback(TrainerCallback):
    """Fit the active mapping on the training rows where it is estimated and not yet fitted.

    Args:
        rows: the training rows.
        features: what their integer labels stand for.
    """

    def __init__(self, rows: Any, features: Any = None) -> None:
        self.rows, self.features = rows, features

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        mapping = model.active_mapping()
        if not mapping.needs_fit:
            return
        if isinstance(self.rows, FrozenRows) and mapping.calibration_rows() is None:
            mapping.fit(self.rows.values, self.rows.labels)
        else:  # a mapping with rows of its own does not look at these
            model.fit_mapping(self.rows, features=self.features)
