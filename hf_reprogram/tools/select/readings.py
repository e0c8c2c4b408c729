"""What a frozen model gives for rows without any program: each of its readings, of one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...backbone.kinds import KINDS, kind_of, modality_of
from ...batch import Reading
from ...config import ReprogramConfig
from ...data.rows import as_rows
from ...mappings.linear import LinearConfig
from ...model import get_reprogram_model
from ...serve import readouts
from ...wrap import check_base
from ..alignment import agreement, derivatives, kernel_alignment


SLOTS = 5  # of the soft prompt at whose start the gradients are taken
NAMES = {"state": "mean state", "answer": "answer state", "classes": "classes", "vocabulary": "vocabulary"}


@dataclass(frozen=True)
class Found:
    """What a model gave for rows.

    Args:
        values: by name of the reading, (rows, K) float64.
        seconds: of the pass.
        aside: by name of the reading, why nothing can be said of it.
    """

    values: dict[str, np.ndarray]
    seconds: float
    aside: dict[str, str] = field(default_factory=dict)


def readings_of(backbone: Any) -> dict[str, Reading]:
    """By name: mean state, and where the base has them answer state, its own classes, vocabulary."""
    found = {"state": Reading("state", pool="mean")}
    if "rows" in backbone.gives and backbone.modality == "text":
        found["answer"] = Reading("state", pool="answer")
    if "classes" in backbone.gives:
        found["classes"] = Reading("classes")
    if "rows" in backbone.gives:
        found["vocabulary"] = Reading("rows")
    return found


def scores(reading: str) -> bool:
    """Whether what is read are logits of source labels."""
    return reading in ("classes", "vocabulary")


class Candidate:
    """A frozen model, wrapped so that it can be read; `close` gives it back.

    Args:
        base: frozen model of transformers.
        processor: its processing class.
        labels: target labels.
        template: of the rows; None lays out `{text}`, and an answer slot after it where the model answers.
    """

    def __init__(self, base: Any, processor: Any, labels: Sequence[str], template: str | None = None) -> None:
        check_base(base)
        self.hears = modality_of(base) == "audio"
        program: Any = "none"
        if not self.hears:
            answers = "rows" in KINDS[kind_of(base)].gives
            self.template = template or ("{text}{answer}" if answers else "{text}")
            program = {"type": "none", "template": self.template}
        mapping = LinearConfig(on="state", pool="mean")
        config = ReprogramConfig(program=program, mapping=mapping, labels=list(labels))
        self.model = get_reprogram_model(base, config, processing_class=processor)
        self.labels = list(labels)
        self.readings = readings_of(self.model.backbone)

    def read(self, rows: Any, batch_size: int = 32) -> Found:
        """What the model gives for rows, without their labels."""
        collator = self.model.collator()
        made = collator.lay_out(as_rows(rows, self.model.text_column()), labelled=False)
        start = time.perf_counter()
        read = readouts(self.model, collator, made, list(self.readings.values()), batch_size)
        seconds = time.perf_counter() - start
        values = {name: part.double().numpy() for name, part in zip(self.readings, read, strict=True)}
        return Found(values, seconds)

    def pulls(
        self, rows: Sequence[dict[str, Any]], y: np.ndarray, values: np.ndarray, count: int, contrasts: int = 3
    ) -> dict[str, float]:
        """`agreement` and `tangent` at the start of a soft prompt, or of a wave that is added to a sound.

        The map is the ridge of the mean states. One backward for each row's loss, and one for each of some contrasts
        between labels: differences of scores, orthogonal to each other (all of them for up to four labels).

        Args:
            rows: labelled rows.  y: (rows,) their ids.  values: (rows, K) their mean states.
            count: rows whose gradients are taken.
        """
        from scipy.linalg import helmert

        program: Any = {"type": "waveform"}
        if not self.hears:
            program = {"type": "prompt", "template": f"{{prompt:{SLOTS}}} {self.template}"}
        mapping = LinearConfig(on="state", pool="mean")
        self.model.add_adapter("pulled", ReprogramConfig(program=program, mapping=mapping, labels=self.labels))
        try:
            self.model.set_adapter("pulled")
            mapping, between = self.model.active_mapping(), helmert(len(self.labels))[:contrasts]
            mapping.fit(torch.from_numpy(values), torch.from_numpy(y))
            some = stratified(y, count)
            losses, *kernels = derivatives(self.model, [rows[i] for i in some], between)  # each (some, numbers)
            member = np.eye(len(self.labels))[y[some]]
            along = [kernel_alignment(j, member @ v) for j, v in zip(kernels, between, strict=True)]
            return {"agreement": agreement(losses), "tangent": float(np.mean(along))}
        finally:
            self.model.set_adapter("default")
            self.model.delete_adapter("pulled")

    def close(self) -> Any:
        """The base as it was."""
        return self.model.unload()


def stratified(y: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Ascending numbers of at most `count` rows, each label in like share where that can be.

    Example:

        >>> y = np.array([0, 0, 0, 0, 1, 1])
        >>> np.bincount(y[stratified(y, 3)]).tolist()
        [2, 1]
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(y))
    if count >= len(y):
        return everything
    try:
        return np.sort(train_test_split(everything, train_size=count, stratify=y, random_state=seed)[0])
    except ValueError:  # a label of one row, or fewer rows than labels
        return np.sort(np.random.default_rng(seed).permutation(len(y))[:count])
