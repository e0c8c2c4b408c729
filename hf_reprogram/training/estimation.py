"""The callback that estimates a mapping before the first step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class EstimationCallback(TrainerCallback):
    """Fit the active mapping on the training rows where it is estimated and not yet fitted.

    Args:
        rows: the training rows.
        features: what their integer labels stand for.
    """

    def __init__(self, rows: Any, features: Any = None) -> None:
        self.rows, self.features = rows, features

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if model.active_mapping().needs_fit:
            model.fit_mapping(self.rows, features=self.features)
