"""Mean over labels of the harmonic mean of precision and recall, 0 for a label that is never told."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from sklearn.metrics import f1_score

from hf_reprogram.tools.metrics import label_ids


INPUTS = "predictions, references: label ids, one for each row."


class MacroF1(evaluate.Metric):
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

    def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
        """Scores are refused, which would be cut to whole numbers."""
        for said, values in (("predictions", predictions), ("references", references)):
            label_ids(values, f"macro_f1({said})")
        super().add_batch(predictions=predictions, references=references, **more)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}
