"""Sliced Wasserstein distance of two sets of outputs, standardised together: 0 where they lie alike."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_reprogram.errors import DataError
from hf_reprogram.tools.distances import sliced_wasserstein, together
from hf_reprogram.tools.metrics import table


INPUTS = "predictions: outputs on the target rows; references: outputs on source rows, as many or not."


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

    def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
        """`evaluate` keeps both in the columns of one table: the shorter is filled up with empty rows."""
        expected, fix = "outputs, (rows, numbers)", "logits, or states; of both sets the same ones"
        given = [
            table(values, f"alignment({name})", expected, fix)
            for name, values in (("predictions", predictions), ("references", references))
        ]
        if given[0].shape[1] != given[1].shape[1]:
            what = f"{given[1].shape[1]} numbers a row, and the predictions have {given[0].shape[1]}"
            raise DataError("alignment(references)", what, "as many", fix)
        most = max(map(len, given))
        here, there = ([*values.tolist(), *[[]] * (most - len(values))] for values in given)
        super().add_batch(predictions=here, references=there, **more)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        here, there = ([row for row in rows if len(row)] for rows in (predictions, references))
        return {"alignment": sliced_wasserstein(*together(here, there))[0]}
