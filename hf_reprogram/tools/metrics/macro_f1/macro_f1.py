"""Mean over labels of the harmonic mean of precision and recall, 0 for a label that is never told."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from sklearn.metrics import f1_score

from hf_reprogram.tools.metrics import OfLabelIds


INPUTS = "predictions, references: label ids, one for each row."


class MacroF1(OfLabelIds, evaluate.Metric):
    """Mean over labels of the harmonic mean of precision and recall, 0 for a label that is never told."""

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
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}
