"""Mean over rows of how far the confidence of their bin is from its accuracy, of 15 bins."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_reprogram.metrics import calibration


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

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"calibration_error": calibration(predictions, references)[0]}
