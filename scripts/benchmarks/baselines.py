"""The controls that stand beside every number of ours, on the same rows (DESIGN §7.3).

Rows are dicts with a `text` and a `label` (its name). Nothing here looks at the labels of test rows; whoever calls
compares the guesses with them.

    outcomes = [majority(train, test), classical(train, test, "all"), *frozen(base, tokenizer, ..., few, test)]
    gain, error = paired_gain(ours, outcomes[0], truth)
"""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import hf_reprogram as hr


Row = dict[str, Any]
Tick = Callable[[int], object]  # told how many rows are done


@dataclass(frozen=True)
class Outcome:
    """What one method guesses for the test rows, and what it costs.

    Args:
        method: a name of DESIGN §7.1.
        guesses: a label per test row.
        trained_parameters: numbers that were trained, fitted or estimated.
        artefact_bytes: size of what would be kept and shared beside the frozen base.
        seconds: wall-clock time of fitting it and judging the test rows.
        scores: (rows, classes) target logits, for methods that have them.
    """

    method: str
    guesses: list[str]
    trained_parameters: int
    artefact_bytes: int
    seconds: float
    scores: Tensor | None = None

    def right(self, truth: Sequence[str]) -> list[bool]:
        """Row by row, whether the guess is right."""
        return [guess == label for guess, label in zip(self.guesses, truth, strict=True)]

    def accuracy(self, truth: Sequence[str]) -> float:
        """Share of right guesses in percent."""
        return 100 * sum(self.right(truth)) / len(truth)


# Without a language model -------------------------------------------------------------------------------------------


def majority(train: Sequence[Row], test: Sequence[Row]) -> Outcome:
    """Always the commonest label of `train`."""
    start = time.perf_counter()
    (label, _), *_ = Counter(row["label"] for row in train).most_common(1)
    return Outcome("majority", [label] * len(test), 0, 0, time.perf_counter() - start)


def classical(train: Sequence[Row], test: Sequence[Row], variant: str) -> Outcome:
    """Logistic regression (C = 10) on sublinear TF-IDF of words and pairs of words.

    Args:
        train: rows to learn from.
        test: rows to judge.
        variant: what the method is called after the colon: how many rows it learned from.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    start = time.perf_counter()
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    guesses = model.predict([row["text"] for row in test]).tolist()
    seconds = time.perf_counter() - start
    numbers = model[-1].coef_.size + model[-1].intercept_.size
    return Outcome(f"classical:{variant}", guesses, numbers, len(pickle.dumps(model)), seconds)


# The frozen model, untaught -----------------------------------------------------------------------------------------


def frozen(
    base: PreTrainedModel,
    tokenizer: Any,
    template: str,
    verbalizer: dict[str, Any],
    few: Sequence[Row],
    test: Sequence[Row],
    content_free: str = "N/A",
    tick: Tick | None = None,
) -> list[Outcome]:
    """Label words zero-shot, the same calibrated, and a linear probe: one pass of the frozen model serves all three.

    Args:
        base, tokenizer: given back as they came.
        template: ours without its slots.
        verbalizer: options of our verbalizer.
        few: labelled rows for the probe, a ridge whose penalty is chosen by leave-one-out error on them.
        test: rows to judge.
        content_free: the text of contextual calibration (2102.09690).
        tick: told of every row that is done.
    """
    program, labels = {"type": "none", "template": template}, list(verbalizer["words"])
    calibration = {"calibration": "contextual", "calibration_texts": [content_free]}
    mappings = {
        "zero_shot": hr.VerbalizerConfig(**verbalizer),
        "calibrated": hr.VerbalizerConfig(**verbalizer, **calibration),
        "probe": hr.LinearConfig(on="state", pool="answer", solver="ridge"),
    }
    configs = {name: hr.ReprogramConfig(program=program, mapping=m, labels=labels) for name, m in mappings.items()}
    model = hr.get_reprogram_model(base, configs["zero_shot"], processing_class=tokenizer, adapter_name="zero_shot")

    start = time.perf_counter()
    states = _answer_states(model, test, tick)  # (rows, dim)
    judging = time.perf_counter() - start
    outcomes = []
    for name, config in configs.items():
        start = time.perf_counter()
        if name != "zero_shot":
            model.add_adapter(name, config)  # estimates the offset of the calibrated one
        model.set_adapter(name)
        mapping = model.active_mapping()
        if name == "probe":
            mapping.fit(_answer_states(model, few, tick), torch.tensor([labels.index(row["label"]) for row in few]))
        scores = mapping(hr.Readout(_read(model, states, mapping.reading()), kind=mapping.reading().kind))
        seconds = judging + time.perf_counter() - start
        fitted = {"zero_shot": 0, "calibrated": len(labels), "probe": len(labels) * (states.shape[1] + 1)}[name]
        outcomes.append(Outcome(name, guesses(scores, labels), fitted, artefact_bytes(model), seconds, scores))
    model.unload()
    return outcomes


@torch.no_grad()
def _answer_states(model: hr.ReprogramModel, rows: Sequence[Row], tick: Tick | None) -> Tensor:
    """The base's last states at the answer slot, (rows, dim)."""
    collator = model.collator()

    def read(part: list[Row]) -> Tensor:
        columns = collator.stack(collator.lay_out(part, labelled=False))
        return model.reprogrammed.readout(columns, hr.Reading("state", pool="answer"))

    return in_slices(rows, read, tick)


@torch.no_grad()
def _read(model: hr.ReprogramModel, states: Tensor, reading: hr.Reading) -> Tensor:
    """What a mapping reads, from states at the answer slot."""
    if reading.kind == "state":
        return states
    head = model.backbone.head
    return head.logits(head.transform(states), torch.tensor(reading.ids))  # (rows, words)


# The same program on a model that knows nothing ---------------------------------------------------------------------


@torch.no_grad()
def random_source(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A copy of a model that knows nothing: every parameter drawn anew from a normal of its own mean and deviation.

    Scale, shapes and code are the base's, the knowledge is gone; what a program reaches here, it would reach on any
    model of this form. Tied parameters are drawn once and stay tied. Buffers (rotary frequencies and the like) are
    form, not knowledge, and stay. No output gain (M§C.6) is set: with the tensors' own scale the label scores of
    random SmolLM2 spread wider than the real one's, not narrower.

    Args:
        model: stays as it is.
        seed: of the draw.
    """
    source = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in source.parameters():  # a tied parameter comes once
        spread, mean = torch.std_mean(parameter.double(), correction=0)
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * spread.float().cpu() + mean.float().cpu())
    return source


# Shared --------------------------------------------------------------------------------------------------------------


def in_slices(
    rows: Sequence[Row], read: Callable[[list[Row]], Tensor], tick: Tick | None = None, size: int = 32
) -> Tensor:
    """`read` over slices of rows of like length, longest first, put back into order; `tick` learns of each slice."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["text"]))
    parts = []
    for start in range(0, len(order), size):
        part = [rows[i] for i in order[start : start + size]]
        parts.append(read(part))
        if tick is not None:
            tick(len(part))
    return torch.cat(parts)[torch.tensor(order).argsort()]


def guesses(scores: Tensor, labels: Sequence[str]) -> list[str]:
    """The label with the highest score, row by row."""
    return [labels[i] for i in scores.argmax(1).tolist()]


def artefact_bytes(model: hr.ReprogramModel) -> int:
    """Bytes of all files that the active program is saved in: weights, config and card."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, selected_adapters=[model.active_name()])
        return folder_bytes(folder)


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def paired_gain(ours: Outcome, other: Outcome, truth: Sequence[str]) -> tuple[float, float]:
    """How many points `ours` is above `other` on the same rows, and the standard error of that difference."""
    differences = [a - b for a, b in zip(ours.right(truth), other.right(truth), strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1)
    return 100 * mean, 100 * math.sqrt(variance / len(differences))
