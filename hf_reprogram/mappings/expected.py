"""`expected`: a number as the expected value of number words read at the answer slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..batch import Reading, Readout
from ..errors import ConfigError, DataError
from ..registry import option
from .base import Mapping, MappingOptions, one_token


@dataclass
class ExpectedConfig(MappingOptions):
    """Options of `expected`. The one target label is the name of the number.

    Example:

        >>> ExpectedConfig(values={" bad": 1.0, " good": 5.0}).problem_type
        'regression'
    """

    problem_type: ClassVar[str | None] = "regression"

    type: str = field(default="expected", init=False)
    values: dict[str, float] = option({}, "Words of one token, as they follow the template, and what each stands for.")
    line: bool = option(True, "Fit a line from the expected value to the rows' numbers, once, by least squares.")
    clip: bool = option(False, "Answer with no number below the least of `values` or above the largest.")
    ids: list[int] | None = option(None, "Filled in: token ids of the words.")

    def validate(self) -> None:
        super().validate()
        if len(set(self.values.values())) < 2:
            what = 'words of at least two numbers, {" bad": 1.0, " good": 5.0}'
            raise ConfigError("ExpectedConfig.values", f"{self.values!r}", what)

    def label_words(self) -> dict[str, dict[str, Any]]:
        return {f"{self.values[word]:g}": {word: i} for word, i in zip(self.values, self.ids, strict=True)}

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is None or len(labels) != 1:
            raise ConfigError("ReprogramConfig.labels", f"{labels!r}", "the name of one number", 'labels=["stars"]')
        if tokenizer is not None or self.ids is None:
            self.ids = [one_token(tokenizer, word, f"ExpectedConfig.values[{word!r}]") for word in self.values]
        if len(set(self.ids)) != len(self.values):
            raise ConfigError("ExpectedConfig.values", f"{self.values!r}", "words of different tokens, one each")


class Expected(Mapping):
    """y = a sum over words w of p_w v_w + b, with p the softmax over the words' logits and v_w what w stands for.

    a and b are the least squares line on the rows of the estimate; a is 0 where the expected value never moves.

    Shapes: readout (batch, words); logits (batch, 1).

    Paper: numbers over bins or digit words as in M§A.15.
    """

    Options = ExpectedConfig
    paper = "2202.10629"
    example = {"values": {" bad": 1.0, " good": 5.0}}

    def __init__(self, options: ExpectedConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if max(options.ids) >= backbone.head.size or min(options.ids) < 0:
            raise ConfigError("ExpectedConfig.ids", f"{options.ids!r}", f"token ids below {backbone.head.size}")
        self.register_buffer("values", torch.tensor([float(v) for v in options.values.values()]), persistent=False)
        if options.line:
            self.register_buffer("slope", torch.ones(1))
            self.register_buffer("start", torch.zeros(1))

    @property
    def estimated(self) -> str:
        return "once" if self.options.line else "never"

    @property
    def fit_needs_labels(self) -> bool:
        return True

    def reading(self) -> Reading:
        return Reading("rows", ids=tuple(self.options.ids))

    def forward(self, readout: Readout) -> Tensor:
        found = self._expected(readout.values.float())
        if self.options.line:
            found = self.slope * found + self.start
        if self.options.clip:
            found = found.clamp(self.values.min(), self.values.max())
        return found.unsqueeze(1)

    def _expected(self, values: Tensor) -> Tensor:
        return values.softmax(1) @ self.values.to(values.dtype)  # (batch,)

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        x, y = (
            self._expected(values.double().to(self.values.device)).cpu().numpy(),
            labels.double().flatten().cpu().numpy(),
        )
        odd = np.flatnonzero(~np.isfinite(x))
        if len(odd):
            raise DataError(f"fit_mapping(rows)[{odd[0]}]", "NaN or infinity among the base's scores", "finite scores")
        spread = np.square(x - x.mean()).sum()
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 1e-12 else 0.0
        self.slope.fill_(slope)
        self.start.fill_(float(y.mean() - slope * x.mean()))
        self.fitted.fill_(1)

    def explain(self) -> dict[str, Any]:
        line = {"slope": float(self.slope), "start": float(self.start)} if self.options.line else None
        return {"reads": "number words", "values": self.options.values, "line": line}

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        return list(self.options.values), self.values.unsqueeze(0)
