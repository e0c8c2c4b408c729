"""Metrics as modules of `evaluate`, one folder each, that load without a network: `evaluate.load(path)`.

trainer = hr.make_trainer(model, args, rows, validation, compute_metrics=hr.compute_metrics("balanced_accuracy"))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError, did_you_mean, first_line


FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Metrics that are here.

    Example:

        >>> names()
        ['accuracy', 'alignment', 'balanced_accuracy', 'calibration_error', 'macro_f1']
    """
    return sorted(path.parent.name for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def load_metric(name: str) -> Any:
    """`evaluate.load` of one of ours.

    Raises:
        ConfigError: no such metric; `evaluate` is missing.
    """
    if name not in names():
        raise ConfigError("load_metric(name)", f"unknown metric {name!r}", fix=did_you_mean(name, names()))
    try:
        import evaluate
    except ImportError as error:
        fix = "pip install 'hf-reprogram[eval]'"
        raise ConfigError("evaluate", f"not usable ({first_line(error)})", "evaluate", fix) from error
    return evaluate.load(str(FOLDER / name))


def compute_metrics(*metrics: str) -> Callable[[Any], dict[str, float]]:
    """What Trainer's `compute_metrics` takes: each metric of the logits against the label ids.

    Args:
        metrics: names; `alignment`, which compares with a source's outputs and not with labels, is not among them.

    Raises:
        ConfigError: no metric, or one that is not about labels.
        DataError: when it is called, for what is no single label for each row: a regression, several labels, texts.

    Example:

        hr.make_trainer(model, args, rows, validation, compute_metrics=hr.compute_metrics("macro_f1"))
    """
    able = [name for name in names() if name != "alignment"]
    wrong = next((name for name in metrics if name not in able), None if metrics else "")
    if wrong is not None:
        where = "compute_metrics(metrics)"
        raise ConfigError(where, f"{wrong!r}" if metrics else "none", "some of " + ", ".join(able))
    loaded = {name: load_metric(name) for name in metrics}

    def judge(found: Any) -> dict[str, float]:
        logits, labels = _single_labels(found.predictions, found.label_ids)
        made: dict[str, float] = {}
        for name, metric in loaded.items():
            said = _softmax(logits) if name == "calibration_error" else logits.argmax(-1)
            made |= metric.compute(predictions=said, references=labels)
        return made

    return judge


def table(values: Any, where: str, expected: str, fix: str) -> np.ndarray:
    """What a metric is given, as finite numbers (rows, K).

    Raises:
        DataError: ids, rows of different length, NaN; told as `where`, with what is `expected` and the `fix`.

    Example:

        >>> table([[0.2, 0.8]], "predictions", "probabilities", "softmax").shape
        (1, 2)
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        what = f"rows of different length, or no numbers ({first_line(error)})"
        raise DataError(where, what, expected, fix) from error
    if found.ndim != 2 or not found.size:
        raise DataError(where, f"an array of shape {found.shape}", expected, fix)
    if not np.isfinite(found).all():
        raise DataError(where, "NaN or infinity", expected, fix)
    return found


def label_ids(values: Any, where: str) -> np.ndarray:
    """Label ids (rows,), whole numbers from 0.

    Raises:
        DataError: scores, names, none at all.

    Example:

        >>> label_ids([1, 0], "predictions")
        array([1, 0])
    """
    expected, found = "label ids, a whole number from 0 for each row", np.asarray(values)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iub":
        what = f"an array of shape {found.shape} of {found.dtype}"
        raise DataError(where, what, expected, "the argmax of scores" if found.dtype.kind == "f" else None)
    return found


class OfLabelIds:
    """What stands before `evaluate.Metric` in a metric of label ids: scores are refused, which it would cut to whole
    numbers."""

    name: str

    def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
        """As `evaluate.Metric`'s own, of label ids alone."""
        for said, values in (("predictions", predictions), ("references", references)):
            label_ids(values, f"{self.name}({said})")
        super().add_batch(predictions=predictions, references=references, **more)


def _single_labels(predictions: Any, label_ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """(logits (rows, labels), ids (rows,)). The first place of anything else is a number too, and means nothing."""
    where, fix = (
        "compute_metrics(predictions)",
        "leave compute_metrics out: the Trainer measures what suits the problem",
    )
    if isinstance(predictions, tuple | list):
        raise DataError(where, f"a {type(predictions).__name__} of {len(predictions)}", "one array of logits", fix)
    logits, labels = np.asarray(predictions), np.asarray(label_ids)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise DataError(where, f"an array of shape {logits.shape}", "logits (rows, labels) of two labels or more", fix)
    where, rows, classes = "compute_metrics(label_ids)", *logits.shape
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        what = f"an array of shape {labels.shape} of {labels.dtype}"
        raise DataError(where, what, f"a whole number for each of {rows} rows", fix)
    odd = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(odd):
        raise DataError(f"{where}[{odd[0]}]", f"{labels[odd[0]]}", f"a label from 0 to {classes - 1}", fix)
    return logits, labels


def _softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True)
