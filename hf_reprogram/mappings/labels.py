"""`labels`: each target label is some of the base's own classes: given, drawn, or those it gives most often."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Reading, Readout
from ..errors import ConfigError, did_you_mean
from ..registry import option
from .base import (
    EstimatedOptions,
    Mapping,
    check_enough,
    finite,
    log_probabilities,
    members,
    says_several,
    strongest,
    warn_of_offsets,
)


logger = logging.getLogger(__name__)

COUNTING = ("frequency", "assignment")  # methods that learn from labelled rows


@dataclass
class LabelsConfig(EstimatedOptions):
    """Options of `labels`. The target labels are those of `ReprogramConfig.labels`.

    Example:

        >>> LabelsConfig(method="frequency", per_label=1).reduce
        'mean'
    """

    type: str = field(default="labels", init=False)
    on: str = option(
        "auto",
        "Source labels: classes (of the base's classifier), vocabulary (tokens at the answer slot), or auto: what the "
        "base has.",
        choices=("auto", "classes", "vocabulary"),
    )
    method: str = option(
        "frequency",
        "How they are chosen: frequency (what the base says most often for rows of the label, the most frequent pair "
        "first), assignment (by the same counts, the largest sum of all); both need labelled rows, once. random, "
        "blocks (the first so many for the first label, the next for the second), or given (`groups`).",
        choices=("frequency", "assignment", "random", "blocks", "given"),
    )
    groups: dict[str, list[str | int]] | None = option(
        None, "With method='given': the base's classes that each target label stands for, by name or number."
    )
    per_label: int | None = option(
        None,
        "Source labels for each target label; None is as many as there are, up to `most`, so that some come first for "
        "no row: where the base's classes are much like the labels, try 1.",
        low=1,
        high=1000,
    )
    most: int = option(6, "That bound (2007.08714 has six).", low=1, high=1000)
    scores: str = option("logits", "What is brought together.", choices=("logits", "probabilities"))
    reduce: str = option("mean", "How source labels become one score.", choices=("mean", "sum", "logsumexp"))
    soft: bool = option(False, "Count probabilities instead of first places.")
    among: list[str] = option([], "Names of the base's classes that may be source labels; [] is all of them.")
    temperature: float = option(
        1.0, "What logits are divided by before they become probabilities (`scores`).", low=1e-3, high=1e3
    )
    remember: float = option(
        0.0, "Share of earlier counts that is kept where the map is estimated anew (`refit_every`).", low=0.0,
        high=0.999,
    )  # fmt: skip
    centred: bool = option(True, "Subtract each source label's mean over the rows that the map is estimated from.")

    def validate(self) -> None:
        super().validate()
        if self.scores == "probabilities" and self.reduce == "logsumexp":
            raise ConfigError(
                "LabelsConfig.reduce", "'logsumexp' of probabilities", "'mean' or 'sum'", "scores='logits'"
            )
        if self.scores != "probabilities" and self.temperature != 1:
            what = f"{self.temperature} with scores={self.scores!r}, which are not divided by it"
            raise ConfigError("LabelsConfig.temperature", what, "1", "scores='probabilities'")
        if self.soft and self.method not in COUNTING:
            raise ConfigError(
                "LabelsConfig.soft", f"True with method={self.method!r}, which counts nothing", "method='frequency'"
            )
        if self.refit_every is not None and self.method not in COUNTING and not self.centred:
            what = f"{self.refit_every} with method={self.method!r}, centred=False, which estimates nothing"
            raise ConfigError("LabelsConfig.refit_every", what, "None", "method='frequency'")
        if self.among and self.method == "given":
            raise ConfigError(
                "LabelsConfig.among", f"{self.among!r} with method='given'", "[]: groups name the classes"
            )
        if self.remember and self.method not in COUNTING:
            what = f"{self.remember} with method={self.method!r}, which counts nothing"
            raise ConfigError("LabelsConfig.remember", what, "method='frequency' or 'assignment'")
        if (self.method == "given") != (self.groups is not None):
            what = f"{'None' if self.groups is None else 'given'} with method={self.method!r}"
            raise ConfigError("LabelsConfig.groups", what, 'method="given", groups={"cat": ["tabby"], ...}')
        if self.method == "given":
            self._check_groups()

    def _check_groups(self) -> None:
        where = "LabelsConfig.groups"
        if self.on == "vocabulary":
            raise ConfigError(where, "words of a vocabulary", "classes of a classifier", "mapping 'verbalizer'")
        if self.per_label is not None:
            raise ConfigError("LabelsConfig.per_label", f"{self.per_label} with groups", "None: they say how many")
        for label, classes in self.groups.items():
            if not classes:
                raise ConfigError(f"{where}[{label!r}]", "[]", "at least one class of the base")

    def labels(self) -> list[str] | None:
        return None if self.groups is None else list(self.groups)

    def suits(self, gives: frozenset[str], base: str) -> None:
        if self.method == "given" and "classes" not in gives:
            what = f"'given': groups are classes of a classifier, and a {base} has none"
            fix = "mapping 'verbalizer' takes words of a language model"
            raise ConfigError("LabelsConfig.method", what, "'frequency', 'assignment' or 'random'", fix)
        super().suits(gives, base)

    def reads(self) -> tuple[str, ...]:
        if self.method == "given":
            return ("classes",)
        return {"auto": ("classes", "rows"), "classes": ("classes",), "vocabulary": ("rows",)}[self.on]

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is None:
            raise ConfigError(
                "ReprogramConfig.labels", "None", "the names of the target labels: this mapping has none"
            )


class Labels(Mapping):
    """score_c = reduce over the source labels k of c of s_k, where s is the logits z or the log-probabilities, each
    minus its mean over the estimation rows (`centred`).

    - `random`: a seeded permutation of the source labels, cut into groups (1806.11146).
    - `given`: `groups` says it; groups may differ in size.
    - `blocks`: c gets the source labels c k ... c k + k - 1 (what the released code of 2106.09296 does for random).
    - `frequency`: F[k, c] counts the rows of c for which the base puts k first; (k, c) with the largest F is taken, k
      is then used up, c too once it has `per_label`; and so on (2211.11635). With `soft`, F sums the probabilities of
      k over the rows of c, divided by their sum over all rows. Where fewer source labels than target labels ever come
      first, hard counts say nothing, and soft ones are taken (logged).

    - `assignment`: the groups with the largest sum of F (scipy's linear_sum_assignment, each label as often as it gets
      source labels).

    A probability is the softmax over the source labels, or the sigmoid where a row of the base's own task may have
    several (its config's `problem_type`). `mean` and `sum` of probabilities are log of their mean or sum; the loss's
    softmax then divides by the sum over the target labels, so that source labels that nobody has do not count. Groups
    that are not given are of one size, so that no label has a head start in a sum. Ties go to the lowest index.
    `refit_every=1` chooses anew after each epoch under the program as it is then (iterative label mapping).

    Shapes: readout (batch, K), or (batch, labels * per_label) once fitted on a vocabulary: only the chosen rows are
    read then; logits (batch, labels).
    """

    Options = LabelsConfig
    paper = "1806.11146, 2007.08714, 2106.09296, 2211.11635"
    example = {"per_label": 2, "scores": "probabilities"}
    tries = ({}, {"method": "assignment"})

    def __init__(self, options: LabelsConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if problem_type == "regression":
            raise ConfigError("ReprogramConfig.problem_type", "'regression' with the mapping 'labels'", "'linear'")
        self.on_classes = "classes" in backbone.gives
        self.size = backbone.classes if self.on_classes else backbone.head.size
        self.names = backbone.base.config.id2label if self.on_classes else {}
        self.several = self.on_classes and says_several(backbone.base)
        self.able = named(options.among, self.names, self.size, "LabelsConfig.among")
        if options.groups is not None:
            each = max(map(len, options.groups.values()))
        else:
            able = len(self.able)
            each = options.per_label or max(1, min(options.most, able // len(labels)))
            check_enough(able, len(labels), each, f"LabelsConfig.{'among' if options.among else 'per_label'}")
        self.register_buffer("indices", torch.zeros(len(labels), each, dtype=torch.int64))
        if options.centred:
            self.register_buffer("mean", torch.zeros(len(labels), each))
        if options.remember:  # a run that is resumed goes on from them
            self.register_buffer("counts", torch.zeros(self.size, len(labels)))

    @property
    def estimated(self) -> str:
        return "once" if self.fit_needs_labels or self.options.centred else "never"

    @property
    def fit_needs_labels(self) -> bool:
        return self.options.method in COUNTING

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        if self.options.groups is not None:
            self.indices.copy_(self._given(self.options.groups))
            return
        order = torch.tensor(self.able)
        if self.options.method != "blocks":
            order = order[torch.randperm(len(order), generator=generator)]
        self.indices.copy_(order[: self.indices.numel()].view_as(self.indices))

    def _given(self, groups: dict[str, list[str | int]]) -> Tensor:
        """(labels, longest) the numbers of the classes that the user gave; -1 where a group is shorter."""
        numbers, taken = {name: i for i, name in self.names.items()}, {}
        found = torch.full(self.indices.shape, -1)
        for i, label in enumerate(self.labels):
            where = f"LabelsConfig.groups[{label!r}]"
            for j, each in enumerate(groups[label]):
                number = numbers.get(each) if isinstance(each, str) else each
                if number is None:
                    raise ConfigError(where, f"the base has no class {each!r}", None, did_you_mean(each, numbers))
                if not 0 <= number < self.size:
                    raise ConfigError(where, f"{number}", f"0 to {self.size - 1}")
                if number in taken:
                    raise ConfigError(where, f"{each!r}, which {taken[number]!r} has", "each class once")
                taken[number] = label
                found[i, j] = number
        return found

    def reading(self) -> Reading:
        if self.on_classes:
            return Reading("classes")
        # Probabilities need the whole vocabulary for their sum.
        few = self.options.scores == "logits" and not self.needs_fit
        return Reading("rows", ids=tuple(self.indices.flatten().tolist()) if few else None)

    def fit_reading(self) -> Reading:
        return Reading("classes") if self.on_classes else Reading("rows")

    def forward(self, readout: Readout) -> Tensor:
        values = readout.values.float()
        if self.options.scores == "probabilities":
            values = log_probabilities(values / self.options.temperature, self.several)
        if self.on_classes or values.shape[1] == self.size:
            values = values[:, self.indices.flatten()]
        groups = values.view(-1, *self.indices.shape)  # (batch, labels, per label)
        if self.options.centred:
            groups = groups - self.mean
        nothing = self.indices < 0  # (labels, per label): given groups may differ in size
        count = (~nothing).sum(-1)
        if self.options.scores == "probabilities":
            total = groups.masked_fill(nothing, -torch.inf).logsumexp(-1)
            return total - count.log() if self.options.reduce == "mean" else total
        if self.options.reduce == "logsumexp":
            return groups.masked_fill(nothing, -torch.inf).logsumexp(-1)
        total = groups.masked_fill(nothing, 0.0).sum(-1)
        return total / count if self.options.reduce == "mean" else total

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        z = torch.from_numpy(finite(values))
        if self.options.scores == "probabilities":
            z = log_probabilities(z / self.options.temperature, self.several)
        mean = z.mean(0)
        if not self.options.centred:
            warn_of_offsets(z[:, self.able].numpy(), "LabelsConfig")
        if self.fit_needs_labels:
            z = z - mean if self.options.centred else z
            self.indices.copy_(torch.from_numpy(self._choose(z.numpy(), labels.cpu().numpy())))
        if self.options.centred:
            self.mean.copy_(mean[self.indices.cpu().flatten()].view_as(self.mean))
        self.fitted.fill_(1)

    def _choose(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        member = members(y, self.labels)
        others = np.setdiff1d(np.arange(self.size), self.able)
        z[:, others] = -1e30  # they come first for no row
        counts = frequencies(z, member, self.options.soft)
        covered = int((counts.sum(1) > 0).sum())
        if covered < len(self.labels):
            logger.warning(
                "labels: the base puts only %d of its %d labels first, fewer than the %d target labels; probabilities "
                "are counted instead.", covered, self.size, len(self.labels),
            )  # fmt: skip
            counts = frequencies(z, member, True)
        if self.options.remember:
            counts = counts + self.options.remember * self.counts.double().cpu().numpy()
            self.counts.copy_(torch.from_numpy(counts))
        # An output that never moves says nothing; it is used only where there are not enough others.
        counts[(z.std(0) < 1e-12) & (len(z) > 1)] -= counts.max() + 1
        counts[others] -= 2 * (np.abs(counts).max() + 1)
        choose = greedy if self.options.method == "frequency" else assigned
        return choose(counts, self.indices.shape[1])

    def explain(self) -> dict[str, Any]:
        return {
            "reads": "the base's own classes" if self.on_classes else "tokens of the vocabulary",
            "method": self.options.method,
            "source labels": strongest(self.labels, *self.weights(), most=self.indices.shape[1]),
        }

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        member = self.indices >= 0  # (labels, per label)
        sources, owners = self.indices[member].tolist(), member.nonzero()[:, 0]
        made = torch.zeros(len(self.labels), len(sources), device=member.device)
        made[owners, torch.arange(len(sources))] = 1.0
        if self.options.reduce == "mean":
            made /= member.sum(1, keepdim=True)
        return [self.names.get(i, i) for i in sources], made


def named(among: list[str], names: Any, size: int, where: str) -> list[int]:
    """Ascending numbers of the base's classes of these names; all of them where there are none.

    Args:
        among: the names.
        names: number -> name of each class; {} of a vocabulary.
        size: how many there are.
        where: the option.

    Example:

        >>> named(["up"], {0: "down", 1: "up"}, 2, "LabelsConfig.among"), named([], {}, 2, "LabelsConfig.among")
        ([1], [0, 1])
    """
    if not among:
        return list(range(size))
    if not names:
        fix = "verbalizer and knowledge choose among words"
        raise ConfigError(where, f"{among!r}, and the source labels are a vocabulary", "[]", fix)
    numbers = {str(name): int(i) for i, name in names.items()}
    unknown = next((name for name in among if name not in numbers), None)
    if unknown is not None:
        raise ConfigError(where, f"the base has no class {unknown!r}", fix=did_you_mean(unknown, numbers))
    return sorted({numbers[name] for name in among})


def frequencies(z: np.ndarray, member: np.ndarray, soft: bool) -> np.ndarray:
    """How often each source label comes first for rows of each target label.

    Args:
        z: (rows, K) scores.  member: (rows, labels) 1 where a row has the label.
        soft: sum probabilities, and divide each source label's by its total.

    Returns:
        (K, labels).
    """
    if not soft:
        first = np.zeros_like(z)
        first[np.arange(len(z)), z.argmax(1)] = 1
        return first.T @ member
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    sums = p.T @ member
    return sums / np.maximum(p.sum(0)[:, None], 1e-300)


def greedy(counts: np.ndarray, each: int) -> np.ndarray:
    """`each` source labels for every target label, the most frequent pair first: (K, labels) -> (labels, each).

    Example:

        >>> greedy(np.array([[5, 1, 0], [4, 2, 0], [3, 3, 0], [0, 3, 1], [0, 0, 2], [0, 0, 0]]), 2).tolist()
        [[0, 1], [2, 3], [4, 5]]
    """
    left = counts.astype(float)
    chosen: list[list[int]] = [[] for _ in range(counts.shape[1])]
    for _ in range(counts.shape[1] * each):
        k, c = np.unravel_index(int(left.argmax()), left.shape)
        chosen[c].append(int(k))
        left[k] = -np.inf
        if len(chosen[c]) == each:
            left[:, c] = -np.inf
    return np.array(chosen)


def assigned(counts: np.ndarray, each: int) -> np.ndarray:
    """`each` source labels for every target label with the largest sum: (K, labels) -> (labels, each).

    Example:

        >>> assigned(np.array([[5, 4, 0], [4, 0, 0], [0, 3, 1]]), 1).tolist()  # 9; the most frequent first give 8
        [[1], [0], [2]]
    """
    from scipy.optimize import linear_sum_assignment

    sources, owners = linear_sum_assignment(np.repeat(counts, each, axis=1), maximize=True)
    return np.array([np.sort(sources[owners // each == c]) for c in range(counts.shape[1])])
