"""Sliced Wasserstein distance of two sets of outputs, standardised together: 0 where they lie alike."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_reprogram.tools.distances import sliced_wasserstein, together


INPUTS = "predictions: outputs on the target rows; references: as many outputs on source rows."


class Alignment(evaluate.Metric):
    """Sliced Wasserstein distance of two sets of outputs, standardised together: 0 where they lie alike."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float32")),
            "references": datasets.Sequence(datasets.Value("float32")),
        }
        return evaluate.MetricInfo(
            description=self.__doc__, citation="2106.09296", inputs_description=INPUTS,
            features=datasets.Features(features),
        )  # fmt: skip

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"alignment": sliced_wasserstein(*together(predictions, references))[0]}
