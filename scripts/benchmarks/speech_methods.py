"""How speech_commands.py judges: a mapping on what a frozen model hears, and what stands beside it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fetch_models
import numpy as np
import torch
from benchmarks.speech_data import Rows
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedModel,
)

import hf_reprogram as hr
from hf_reprogram import sources  # noqa: F401 (registers the attention-RNN)
from hf_reprogram.features import FrozenRows


SECOND = {"samples": 16000, "crop": "start", "level": "peak"}  # the canvas: zeros behind a short clip
LOG_MEL = {"pool": (5, 2), "C": 0.01}  # 25 times by 40 bands


@functools.cache
def source(name: str) -> tuple[PreTrainedModel, Any]:
    """A frozen model in float32, and its processor."""
    folder, spotter = fetch_models.fetch(name), name == "attention-rnn"
    kinds = (
        (AutoModelForAudioClassification, AutoFeatureExtractor)
        if spotter
        else (AutoModelForSpeechSeq2Seq, AutoProcessor)
    )
    base = kinds[0].from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return base, kinds[1].from_pretrained(folder, local_files_only=True)


class Listener:
    """A frozen model under one mapping without a program; what it hears of each split is computed once.

    Args:
        base, processor: given back as they came by `close`.
        mapping: options.
        labels: names.
        canvas: options.
        folder: keeps what was heard for later runs; None keeps it in memory.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        processor: Any,
        mapping: Any,
        labels: Sequence[str] | None,
        canvas: dict[str, Any] = SECOND,
        folder: Path | None = None,
    ) -> None:
        config = hr.ReprogramConfig(program="none", mapping=mapping, labels=labels, canvas=canvas)
        self.model = hr.get_reprogram_model(base, config, processing_class=processor)
        self.folder = folder

    def hear(self, rows: Rows, split: str) -> FrozenRows:
        """The rows as the mapping reads them."""
        return self.model.frozen_rows(rows, cache=None if self.folder is None else self.folder / split)

    @torch.no_grad()
    def right(self, learned: FrozenRows | None, *judged: FrozenRows) -> list[np.ndarray]:
        """Fit the mapping on some rows, if there are any; 1 where it is right on each of the others, list by list."""
        if learned is not None:
            self.model.fit_mapping(learned)
        mapping, kind = self.model.active_mapping(), self.model.active_mapping().reading().kind
        return [
            (mapping(hr.Readout(rows.values, kind=kind)).argmax(1) == rows.labels).numpy().astype(float)
            for rows in judged
        ]

    def close(self) -> None:
        """Give the base back."""
        self.model.unload()


# Without a model ----------------------------------------------------------------------------------------------------


def commonest(train: Sequence[str], test: Sequence[str]) -> np.ndarray:
    """Right or not: always the commonest label."""
    (label, _), *_ = Counter(train).most_common(1)
    return np.array([float(t == label) for t in test])


@torch.no_grad()
def log_mels(rows: Rows) -> np.ndarray:
    """(rows, 1000): 80 log-mel bands of 125 frames, standardised by clip, averaged to 40 by 25."""
    base, processor = source("attention-rnn")
    listener = Listener(base, processor, hr.LinearConfig(on="classes"), sorted({row["label"] for row in rows}))
    collator = listener.model.collator()
    waves = [collator(rows[i : i + 64])["input_values"] for i in range(0, len(rows), 64)]
    listener.close()
    return torch.cat([_pooled(base.features(wave)) for wave in waves]).double().numpy()


def _pooled(bands: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(bands.unsqueeze(1), LOG_MEL["pool"]).flatten(1)  # (batch, 1000)


def classical(train: np.ndarray, labels: Sequence[str], test: np.ndarray, truth: Sequence[str]) -> np.ndarray:
    """Right or not: logistic regression on standardised log-mels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=LOG_MEL["C"], max_iter=300))
    return (model.fit(train, labels).predict(test) == np.array(truth)).astype(float)
