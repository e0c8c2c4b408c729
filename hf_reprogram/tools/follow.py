"""Follow the bound while a program trains: source risk, distance of the scores class by class, target risk."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import TrainerCallback

from ..batch import Reading
from ..config import ReprogramConfig
from ..data.rows import as_rows
from ..errors import DataError, UsageError
from ..mappings.labels import assigned, frequencies
from ..mappings.linear import LinearConfig
from ..serve import labels_of, laid_out, readouts
from .bound import bound, source_classes


class FollowBound(TrainerCallback):
    """Measures, before the first step and after every epoch, what the bound of `tools.bound` is made of.

    Each target label stands for one of the base's own classes: that of the best assignment by first places, found
    anew each time. `history` holds a dict for each look: `epoch`, `bound`, `risk` (of the target), `source_risk`,
    `distance` (W_1 of the scores, weighed by label), `error`, `stands_for` (label: class).

    Args:
        model: a ReprogramModel on a classifier.
        rows: labelled target rows, some hundreds: W_1 is exact.
        source_rows: rows of what the base was made for, labelled by names of its classes (or their numbers).
        features: what integer labels of `rows` stand for; a dataset brings its own.
        batch_size: rows per forward.

    Raises:
        UsageError: a base without classes of its own, or with fewer than there are labels.
        DataError: rows without labels, a label that is no class of the base.

    Example:

        follow = hr.FollowBound(model, rows, source_rows)
        hr.make_trainer(model, args, train, validation, callbacks=[follow]).train()
        hr.plot_bound(follow.history).savefig("bound.png")

    Source: the curves of Voice2Series (2106.09296, figure 4) with the form of its theorem that is true.
    """

    def __init__(self, model: Any, rows: Any, source_rows: Any, features: Any = None, batch_size: int = 32) -> None:
        if "classes" not in model.backbone.gives or model.backbone.classes < len(model.label_names()):
            what = f"a {type(model.backbone.base).__name__} with {len(model.label_names())} target labels"
            raise UsageError("FollowBound(model)", what, "a classifier with at least as many classes")
        self.model, self.batch_size, self.history = model, batch_size, []
        self.collator, self.made = laid_out(model, rows, features)
        y = labels_of(self.made)
        if y is None:
            raise DataError("FollowBound(rows)", "rows without labels", "a label on each row")
        self.y = y.numpy()
        self.names = {int(i): str(name) for i, name in model.backbone.base.config.id2label.items()}
        self.source, self.source_y = self._source(as_rows(source_rows, model.text_column()))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look before the first step."""
        self.look(0.0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look after an epoch."""
        self.look(float(state.epoch))

    def look(self, epoch: float) -> dict[str, Any]:
        """Measure now, and keep it."""
        z = self._read(self.collator, self.made)
        labels = self.model.label_names()
        stands_for = assigned(frequencies(z, np.eye(len(labels))[self.y], soft=False), 1)[:, 0].tolist()
        missing = next((k for k in stands_for if k not in self.source_y), None)
        if missing is not None:
            what = f"no row of the class {self.names[missing]!r}, for which a label stands"
            raise DataError("FollowBound(source_rows)", what, "rows of every class of the base")
        found = bound(z, self.y, self.source, self.source_y, stands_for)
        self.history.append(
            {
                "epoch": epoch,
                "bound": found.value,
                "risk": found.risk,
                "error": found.error,
                "source_risk": found.mean_source_risk,
                "distance": found.mean_distance,
                "stands_for": {label: self.names[k] for label, k in zip(labels, stands_for, strict=True)},
            }
        )
        return self.history[-1]

    def _source(self, rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """((rows, K) scores of the base without any program, (rows,) their classes)."""
        y = source_classes(rows, self.names, "FollowBound(source_rows)")
        model, active, hears = self.model, self.model.active_name(), self.model.backbone.modality == "audio"
        program: Any = "none" if hears else {"type": "none", "template": "{text}"}
        config = ReprogramConfig(program=program, mapping=LinearConfig(on="classes"), labels=model.label_names())
        model.add_adapter("source_of_the_bound", config)
        try:
            model.set_adapter("source_of_the_bound")
            collator = model.collator()
            return self._read(collator, collator.lay_out(rows, labelled=False)), y
        finally:
            model.set_adapter(active)
            model.delete_adapter("source_of_the_bound")

    def _read(self, collator: Any, made: Any) -> np.ndarray:
        (values,) = readouts(self.model, collator, made, [Reading("classes")], self.batch_size, progress=False)
        return values.double().numpy()
