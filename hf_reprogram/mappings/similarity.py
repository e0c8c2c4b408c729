"""`similarity`: each target label is the source classes that look like it inside the base (AR-SCR)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError, DataError, UsageError
from ..registry import option
from .base import (
    Mapping,
    MappingOptions,
    check_enough,
    finite,
    log_probabilities,
    members,
    says_several,
    strongest,
)


@dataclass
class SimilarityConfig(MappingOptions):
    """Options of `similarity`. The target labels are those of `ReprogramConfig.labels`.

    Example:

        >>> SimilarityConfig(assignment="greedy").most
        3
    """

    type: str = field(default="similarity", init=False)
    pool: str = option("mean", "Which state is compared.", choices=("mean", "statistics", "first"))
    layer: int | None = option(
        None, "Of a base that hears: which layer's state; None is the last.", low=-200, high=200
    )
    prototypes: str = option(
        "classifier",
        "What stands for a source class: the classifier's own row, or the mean of rows of that class, which "
        "`active_mapping().learn(values, classes)` was given.",
        choices=("classifier", "rows"),
    )
    assignment: str = option(
        "balanced",
        "balanced (`per_label` each, the largest sum of cosines) or greedy (as AR-SCR: source classes in their order, "
        "each to its most similar label that has room).",
        choices=("balanced", "greedy"),
    )
    per_label: int = option(2, "Source classes for each target label.", low=1, high=1000)
    most: int = option(3, "Of greedy: up to so many, once every label has `per_label`.", low=1, high=1000)
    scores: str = option("probabilities", "What is brought together.", choices=("logits", "probabilities"))
    reduce: str = option("mean", "How; with sum a label of more classes has a head start.", choices=("mean", "sum"))

    def validate(self) -> None:
        super().validate()
        if self.assignment == "greedy" and self.most < self.per_label:
            raise ConfigError("SimilarityConfig.most", f"{self.most}", f"at least per_label={self.per_label}")

    def reads(self) -> tuple[str, ...]:
        return ("classes",)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is None:
            raise ConfigError(
                "ReprogramConfig.labels", "None", "the names of the target labels: this mapping has none"
            )


class Similarity(Mapping):
    """score_c = log of the mean (or sum) of the probabilities of c's source classes, or mean (sum) of their logits.

    Once, from labelled rows: t_c is the mean state of the rows of label c, r_k stands for source class k, and classes
    are given to labels by cosine(r_k, t_c), each to one label at most.

    - `balanced`: every label gets `per_label` classes, such that the sum of cosines is the largest
      (scipy.optimize.linear_sum_assignment).
    - `greedy`: for k in order: to the most similar label with fewer than `per_label`; where there is none, to the most
      similar with fewer than `most`; else k is left over.

    Where source rows are not at hand, r_k is row k of the base's last linear layer, led back through the linear layer
    before it where the state is that one's input.

    Shapes: state (rows, dim); prototypes (K, dim); groups (labels, K); logits (batch, labels).

    Paper: AR-SCR (2110.03894), which is `assignment="greedy", reduce="sum"` in its released code.
    """

    Options = SimilarityConfig
    paper = "2110.03894"
    example = {"per_label": 1}

    def __init__(self, options: SimilarityConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if problem_type == "regression":
            raise ConfigError("ReprogramConfig.problem_type", "'regression' with the mapping 'similarity'", "'linear'")
        if options.layer is not None and backbone.modality == "text":
            raise ConfigError(
                "SimilarityConfig.layer", f"{options.layer} of a base that reads", "None: its last layer"
            )
        if options.most != SimilarityConfig.most and options.assignment == "balanced":
            what = f"{options.most} with assignment='balanced', which gives every label `per_label`"
            raise ConfigError("SimilarityConfig.most", what, f"{SimilarityConfig.most}", "assignment='greedy'")
        check_enough(backbone.classes, len(labels), options.per_label, "SimilarityConfig.per_label")
        self.names, self.several = backbone.base.config.id2label, says_several(backbone.base)
        self.register_buffer("groups", torch.zeros(len(labels), backbone.classes, dtype=torch.uint8))
        self.register_buffer("prototypes", None, persistent=False)  # large, and of no use once the map is fitted
        if options.prototypes == "classifier":
            self.prototypes = classifier_rows(backbone.base, backbone.state_size(options.pool, options.layer))

    @property
    def estimated(self) -> str:
        return "once"

    @property
    def fit_needs_labels(self) -> bool:
        return True

    def reading(self) -> Reading:
        return Reading("classes")

    def fit_reading(self) -> Reading:
        return Reading("state", pool=self.options.pool, layer=self.options.layer)

    @torch.no_grad()
    def learn(self, values: Tensor, classes: Tensor) -> None:
        """Prototypes from rows of the source's own domain; `fit_mapping(rows)` comes after it.

        Args:
            values: (rows, dim) what `fit_reading()` asks for, of `model.reprogrammed.readout(columns, reading)`.
            classes: (rows,) ids of the base's classes; a class without rows is given to no label.

        Raises:
            UsageError: `prototypes="classifier"`.  DataError: ids that the base does not have.
        """
        if self.options.prototypes != "rows":
            raise UsageError(
                "learn(values, classes)", "prototypes='classifier'", "SimilarityConfig(prototypes='rows')"
            )
        size = self.groups.shape[1]
        if len(values) != len(classes) or int(classes.min()) < 0 or int(classes.max()) >= size:
            what = f"ids from {int(classes.min())} to {int(classes.max())} for {len(values)} rows"
            raise DataError("learn(values, classes)", what, f"one id from 0 to {size - 1} for each row")
        member = nn.functional.one_hot(classes.cpu(), size).double()
        # 0 / 0 where a class has no row: NaN says so.
        self.prototypes = (member.T @ values.double().cpu() / member.sum(0).unsqueeze(1)).float()

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        if self.prototypes is None:
            raise UsageError(
                "fit_mapping(rows)", "no prototypes of the source classes", "learn(values, classes) first"
            )
        z, member = finite(values), members(labels.cpu().numpy(), self.labels)
        centroids = member.T @ z / member.sum(0)[:, None]
        likeness = cosines(self.prototypes.double().cpu().numpy(), centroids)  # (K, labels)
        known, each = int(np.isfinite(likeness).all(1).sum()), self.options.per_label
        check_enough(known, len(self.labels), each, "SimilarityConfig.per_label")
        owner = balanced(likeness, each) if self.options.assignment == "balanced" else self._greedy(likeness)
        self.groups.copy_(torch.from_numpy(owner[None] == np.arange(len(self.labels))[:, None]))
        self.fitted.fill_(1)

    def _greedy(self, likeness: np.ndarray) -> np.ndarray:
        return greedy(likeness, self.options.per_label, self.options.most)

    def forward(self, readout: Readout) -> Tensor:
        values, groups = readout.values.float(), self.groups.bool()
        if self.options.scores == "logits":
            total, count = values @ groups.T.float(), groups.sum(1)
            return total / count if self.options.reduce == "mean" else total
        each = (
            log_probabilities(values, self.several).unsqueeze(1).masked_fill(~groups, -torch.inf)
        )  # (batch, labels, K)
        total = each.logsumexp(-1)
        return total - groups.sum(1).log() if self.options.reduce == "mean" else total

    def explain(self) -> dict[str, Any]:
        return {
            "reads": "the base's own classes",
            "assignment": self.options.assignment,
            "source labels": strongest(self.labels, *self.weights(), most=self.groups.shape[1]),
        }

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        taken = torch.nonzero(self.groups.any(0)).flatten()
        made = self.groups[:, taken].float()  # (labels, sources)
        if self.options.reduce == "mean":
            made /= made.sum(1, keepdim=True)
        return [self.names.get(k, k) for k in taken.tolist()], made


def classifier_rows(base: nn.Module, size: int) -> Tensor:
    """(classes, size): the rows of a base's last linear layer, seen from a state of some size.

    Raises:
        ConfigError: neither the input of the last linear layer nor of the one before it has that size.
    """
    layers = [m for m in base.modules() if isinstance(m, nn.Linear)]
    ends = [i for i, layer in enumerate(layers) if layer.out_features == base.config.num_labels]
    for end in ends[-1:]:
        rows = layers[end].weight.detach().float()
        if rows.shape[1] == size:
            return rows.clone()
        before = layers[end - 1] if end else None
        if before is not None and (before.out_features, before.in_features) == (rows.shape[1], size):
            return rows @ before.weight.detach().float()
    what = f"'classifier', and no row of a {type(base).__name__}'s last linear layer has {size} numbers"
    fix = "prototypes='rows', from sound of the source's own classes"
    raise ConfigError("SimilarityConfig.prototypes", what, "the state before that layer: layer=-1, pool='mean'", fix)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, dim), (B, dim) -> (A, B); NaN where a row is NaN.

    Example:

        >>> cosines(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0]])).tolist()
        [[1.0], [0.0]]
    """
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    return a @ b.T / np.maximum(lengths, 1e-12)


def balanced(likeness: np.ndarray, each: int) -> np.ndarray:
    """The label of every source class, -1 for none: `each` for every label, the largest sum. (K, labels) -> (K,).

    Example:

        >>> balanced(np.array([[5.0, 4, 0], [4, 0, 0], [0, 3, 1]]), 1).tolist()
        [1, 0, 2]
    """
    from scipy.optimize import linear_sum_assignment

    owner = np.full(len(likeness), -1)
    known = np.flatnonzero(np.isfinite(likeness).all(1))
    places, chosen = linear_sum_assignment(-np.repeat(likeness[known].T, each, axis=0))
    owner[known[chosen]] = places // each
    return owner


def greedy(likeness: np.ndarray, least: int, most: int) -> np.ndarray:
    """The same as AR-SCR does it: source classes in their order, each to its most similar label that has room.

    Example:

        >>> greedy(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.6], [0.5, 0.4]]), 1, 2).tolist()
        [0, 1, 0, 1]
    """
    owner, counts = np.full(len(likeness), -1), np.zeros(likeness.shape[1], dtype=int)
    for k in np.flatnonzero(np.isfinite(likeness).all(1)):
        room = next((r for r in (counts < least, counts < most) if r.any()), None)
        if room is not None:
            owner[k] = int(np.where(room, likeness[k], -math.inf).argmax())
            counts[owner[k]] += 1
    return owner
