"""The controls that stand beside every number of ours, on the same rows (DESIGN §7.3).

Rows are dicts with a `text` and a `label` (its name). Nothing here looks at the labels of test rows; whoever calls
compares the guesses with them.

    outcomes = [majority(train, test), classical(train, test, "all"), Untaught(base, ..., test).probe(few)]

PEFT's methods are in peft_baselines.py, intervals in intervals.py.
"""

from __future__ import annotations

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
from hf_reprogram.mappings.linear import ridge


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


class Untaught:
    """The frozen model without a program: one pass over the test rows serves every way to read them.

    Args:
        base, tokenizer: given back as they came by `close`.
        template: ours without its slots.
        verbalizer: options of our verbalizer.
        test: rows to judge.
        content_free: the text of contextual calibration (2102.09690).
        tick: told of every row that is done.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: Any,
        template: str,
        verbalizer: dict[str, Any],
        test: Sequence[Row],
        content_free: str = "N/A",
        tick: Tick | None = None,
    ) -> None:
        self.labels, self.tick = list(verbalizer["words"]), tick
        calibration = {"calibration": "contextual", "calibration_texts": [content_free]}
        mappings = {
            "zero_shot": hr.VerbalizerConfig(**verbalizer),
            "calibrated": hr.VerbalizerConfig(**verbalizer, **calibration),
            "probe": hr.LinearConfig(on="state", pool="answer", solver="ridge"),
        }
        program = {"type": "none", "template": template}
        self.configs = {
            name: hr.ReprogramConfig(program=program, mapping=mapping, labels=self.labels)
            for name, mapping in mappings.items()
        }
        first = "zero_shot"
        self.model = hr.get_reprogram_model(base, self.configs[first], processing_class=tokenizer, adapter_name=first)
        start = time.perf_counter()
        self.states = self._states(test)  # (rows, dim)
        self.seconds = time.perf_counter() - start

    def words(self, name: str = "zero_shot") -> Outcome:
        """Label words as they come (`zero_shot`), or less what is said of a content-free text (`calibrated`)."""
        return self._outcome(name, None, {"zero_shot": 0, "calibrated": len(self.labels)}[name])

    def probe(self, few: Sequence[Row]) -> Outcome:
        """A ridge on the states of labelled rows, its penalty chosen by leave-one-out error on them."""
        return self._outcome("probe", few, len(self.labels) * (self.states.shape[1] + 1))

    def close(self) -> None:
        """Give the base back."""
        self.model.unload()

    def _outcome(self, name: str, few: Sequence[Row] | None, fitted: int) -> Outcome:
        start = time.perf_counter()
        if name not in self.model.peft_config:
            self.model.add_adapter(name, self.configs[name])  # estimates the offset of the calibrated one
        self.model.set_adapter(name)
        mapping = self.model.active_mapping()
        if few is not None:
            mapping.fit(self._states(few), torch.tensor([self.labels.index(row["label"]) for row in few]))
        reading = mapping.reading()
        scores = mapping(hr.Readout(_read(self.model, self.states, reading), kind=reading.kind)).cpu()
        seconds = self.seconds + time.perf_counter() - start
        return Outcome(name, guesses(scores, self.labels), fitted, artefact_bytes(self.model), seconds, scores)

    @torch.no_grad()
    def _states(self, rows: Sequence[Row]) -> Tensor:
        """The base's last states at the answer slot, (rows, dim)."""
        collator = self.model.collator()

        def read(part: list[Row]) -> Tensor:
            columns = collator.stack(collator.lay_out(part, labelled=False))
            columns = {name: column.to(self.model.backbone.device) for name, column in columns.items()}
            return self.model.reprogrammed.readout(columns, hr.Reading("state", pool="answer"))

        return in_slices(rows, read, self.tick)


@torch.no_grad()
def _read(model: hr.ReprogramModel, states: Tensor, reading: hr.Reading) -> Tensor:
    """What a mapping reads, from states at the answer slot."""
    if reading.kind == "state":
        return states
    head = model.backbone.head
    return head.logits(head.transform(states), torch.tensor(reading.ids, device=states.device))  # (rows, words)


def encoder_states(encoder: PreTrainedModel, tokenizer: Any, rows: Sequence[Row]) -> Tensor:
    """Mean of a bare encoder's last states over a text's tokens, special ones included: (rows, dim)."""

    @torch.no_grad()
    def read(part: list[Row]) -> Tensor:
        columns = tokenizer([row["text"] for row in part], padding=True, truncation=True, return_tensors="pt")
        keep = columns["attention_mask"].unsqueeze(-1)  # (rows, time, 1)
        return (encoder(**columns).last_hidden_state * keep).sum(1) / keep.sum(1)

    return in_slices(rows, read)


def encoder_probe(
    variant: str, states: Tensor, few: Tensor, labels: Sequence[str], truth: Sequence[str], seconds: float = 0.0
) -> Outcome:
    """The probe on features that were made elsewhere.

    Args:
        variant: what the method is called after `probe:`.
        states: (test rows, dim).  few: (rows, dim), of the labelled ones.
        labels: names of all labels.
        truth: labels of the few.
        seconds: that the features took.
    """
    start = time.perf_counter()
    target = torch.eye(len(labels), dtype=torch.double)[[labels.index(label) for label in truth]]  # one-hot
    matrix, bias, *_ = ridge(few.double().numpy(), target.numpy())
    scores = states.double() @ torch.from_numpy(matrix).T + torch.from_numpy(bias)  # (rows, classes)
    numbers = matrix.size + bias.size
    seconds += time.perf_counter() - start
    return Outcome(f"probe:{variant}", guesses(scores, labels), numbers, 4 * numbers, seconds, scores)


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
