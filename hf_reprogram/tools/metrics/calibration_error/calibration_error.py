"""Mean over rows of how far the confidence of their bin is from its accuracy, of 15 bins."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_reprogram.errors import DataError
from hf_reprogram.metrics import calibration
from hf_reprogram.tools.metrics import label_ids, table


INPUTS = "predictions: probabilities of all labels; references: label ids."


class CalibrationError(evaluate.Metric):
    """Mean over rows of how far the confidence of their bin is from its accuracy, of 15 bins."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float32")),
            "references": datasets.Value("int32"),
        }
        return evaluate.MetricInfo(
            description=self.__doc__, citation="1706.04599", inputs_description=INPUTS,
            features=datasets.Features(features),
        )  # fmt: skip

    def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
        """Ids and logits, which other metrics take, are refused: they say nothing of how sure a model is."""
        where, expected = "calibration_error(predictions)", "probabilities of all labels, (rows, labels)"
        fix = "give probabilities: the softmax of the logits"
        given = table(predictions, where, expected, fix)
        if given.min() < 0 or given.max() > 1 + 1e-3:  # half types round a sum of 1
            raise DataError(where, f"numbers from {given.min():.3g} to {given.max():.3g}", expected, fix)
        ids = label_ids(references, "calibration_error(references)")
        if ids.min() < 0 or ids.max() >= given.shape[1]:
            what, expected = f"ids from {ids.min()} to {ids.max()}", f"ids of {given.shape[1]} labels"
            raise DataError("calibration_error(references)", what, expected)
        super().add_batch(predictions=predictions, references=references, **more)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"calibration_error": calibration(predictions, references)[0]}
