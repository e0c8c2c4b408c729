"""Share of rows that are told right."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score

from hf_reprogram.tools.metrics import OfLabelIds


INPUTS = "predictions, references: label ids, one for each row."


class Accuracy(OfLabelIds, evaluate.Metric):
    """Share of rows that are told right."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Value("int32"),
            "references": datasets.Value("int32"),
        }
        return evaluate.MetricInfo(
            description=self.__doc__, citation="scikit-learn", inputs_description=INPUTS,
            features=datasets.Features(features),
        )  # fmt: skip

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}
