"""What maps of the base's own scores share: which source labels, centred on what, and one matrix of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError
from ..registry import option
from .base import EstimatedOptions, Mapping, finite, members, strongest, warn_of_offsets
from .labels import named


SOURCES = 1024  # of a vocabulary, where nobody says how many
STILL = 1e-12  # deviation of an output that never moves


@dataclass
class ScoreOptions(EstimatedOptions):
    """Options of maps that are estimated from the base's own scores.

    Example:

        >>> ScoreOptions(on="vocabulary").reads()
        ('rows',)
    """

    on: str = option(
        "auto",
        "Source labels: classes (of the base's classifier), vocabulary (tokens at the answer slot), or auto: what the "
        "base has.",
        choices=("auto", "classes", "vocabulary"),
    )
    sources: int | None = option(
        None,
        "Source labels that are kept, those that the base finds likeliest on the rows of the estimate; None is all "
        "classes, or 1,024 tokens.",
        low=1,
        high=10**6,
    )
    among: list[str] = option([], "Names of the base's classes that may be source labels; [] is all of them.")
    centred: bool = option(True, "Subtract each source label's mean over the rows that the map is estimated from.")

    def reads(self) -> tuple[str, ...]:
        return {"auto": ("classes", "rows"), "classes": ("classes",), "vocabulary": ("rows",)}[self.on]

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is None:
            what = "the names of the target labels: this mapping has none"
            raise ConfigError("ReprogramConfig.labels", "None", what)


class ScoreMapping(Mapping):
    """logits = matrix @ (z - mean) + bias, z (batch, K) the base's scores of the source labels that are kept.

    A subclass gives `weigh_sources`. Estimated once, in float64 on the CPU, from labelled rows.

    Shapes: readout (batch, classes of the base), or (batch, K) once fitted on a vocabulary; `indices` (K,); `matrix`
    (labels, K); `mean` (K,); `bias` (labels,); logits (batch, labels).
    """

    def __init__(self, options: ScoreOptions, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if problem_type != "single_label_classification":
            what = f"{problem_type!r} with the mapping {options.type!r}"
            raise ConfigError("ReprogramConfig.problem_type", what, "'single_label_classification'", "'linear'")
        self.source, self.size, self.names = self.read_from(backbone)
        self.whole = self.source.kind != "rows"  # what it reads is never less than all of it
        self.able = named(options.among, self.names, self.size, f"{type(options).__name__}.among")
        able = len(self.able)
        usual = able if self.whole else min(SOURCES, able)
        count = usual if options.sources is None else options.sources
        if count > able:
            where = f"{type(options).__name__}.sources"
            raise ConfigError(where, f"{count}, and there are {able}", f"at most {able}")
        self.register_buffer("indices", torch.arange(count))
        self.register_buffer("matrix", torch.zeros(len(labels), count))
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("bias", torch.zeros(len(labels)))

    def read_from(self, backbone: Any) -> tuple[Reading, int, dict[int, str]]:
        """(what a fit reads, how many numbers that is, what those that have names are called)."""
        if "classes" in backbone.gives:
            return Reading("classes"), backbone.classes, backbone.base.config.id2label
        return Reading("rows"), backbone.head.size, {}

    @property
    def estimated(self) -> str:
        return "once"

    @property
    def fit_needs_labels(self) -> bool:
        return True

    def fit_reading(self) -> Reading:
        return self.source

    def reading(self) -> Reading:
        if self.whole or self.needs_fit:
            return self.source
        return Reading("rows", ids=tuple(self.indices.tolist()))

    def forward(self, readout: Readout) -> Tensor:
        values = readout.values.float()
        if values.shape[1] != len(self.indices) or self.whole:
            values = values[:, self.indices]
        return nn.functional.linear(values - self.mean, self.matrix, self.bias)

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        z, member = finite(values), members(labels.cpu().numpy(), self.labels)
        mean = z.mean(0) if self.options.centred else np.zeros(z.shape[1])
        able = np.array(self.able)
        if not self.options.centred:
            warn_of_offsets(z[:, able], type(self.options).__name__)
        always = np.flatnonzero(np.isin(able, self.always)).tolist()
        kept = able[likeliest((z - mean)[:, able], len(self.indices), always)]
        matrix, bias = self.weigh_sources(self.options, z[:, kept] - mean[kept], member, kept)
        for name, found in (("indices", kept), ("matrix", matrix), ("mean", mean[kept]), ("bias", bias)):
            getattr(self, name).copy_(torch.from_numpy(np.ascontiguousarray(found)))
        self.fitted.fill_(1)

    @property
    def always(self) -> list[int]:
        """Source labels that are kept whatever the base says."""
        return []

    @classmethod
    def weigh_sources(
        cls, options: Any, z: np.ndarray, member: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The map of some rows.

        Args:
            options: of the map.
            z: (rows, K) float64 scores, centred where the options say so.
            member: (rows, labels) 1 where a row has the label.
            kept: (K,) numbers of the source labels, ascending.

        Returns:
            (labels, K) weights and (labels,) offsets.
        """
        raise NotImplementedError

    def explain(self) -> dict[str, Any]:
        """Per target label its strongest source labels and their weights."""
        return {
            "reads": "the base's own classes" if self.whole else "tokens of the vocabulary",
            "source labels": strongest(self.labels, *self.weights()),
        }

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        return [self.names.get(i, i) for i in self.indices.tolist()], self.matrix


def probabilities(z: np.ndarray) -> np.ndarray:
    """Softmax of each row, (rows, K)."""
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def likeliest(z: np.ndarray, count: int, always: Sequence[int] = ()) -> np.ndarray:
    """(count,) the source labels with the largest mean probability, in their own order; still ones come last, those
    of `always` first.

    Example:

        >>> likeliest(np.array([[3.0, 0.0, 1.0], [2.0, 0.0, 3.0]]), 2).tolist()
        [0, 2]
    """
    if count == z.shape[1]:
        return np.arange(count)
    mass = probabilities(z).mean(0)
    mass[z.std(0) < STILL] = -1.0
    mass[list(always)] = 2.0
    return np.sort(np.argsort(-mass, kind="stable")[:count])
