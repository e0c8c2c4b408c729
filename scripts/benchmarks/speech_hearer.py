"""Moonshine-tiny under one program, as speech_input.py teaches and judges it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.speech_data import Rows
from benchmarks.speech_methods import SECOND, source
from torch import Tensor
from transformers import PrinterCallback, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.mappings.linear import Linear
from hf_reprogram.tools.random_source import random_source


BATCH = 5  # clips a step
STATES = {"kind": "state", "pool": "statistics"}  # what few clips are learned on, as in speech_commands.py
PROBE = hr.LinearConfig(on="state", pool="statistics")


def labels_of(rows: Rows) -> list[str]:
    """Their labels."""
    return [row["label"] for row in rows]


def unlabelled(rows: Rows) -> Rows:
    """The same without their labels."""
    return [{k: v for k, v in row.items() if k != "label"} for row in rows]


class Hearer:
    """The frozen base, a program, a mapping.

    Args:
        program: its options, or those of several; `none` for the map alone.
        mapping: its options.
        labels: names, where the mapping has none of its own.
        seed: of the program's start, and of the order of training.
        random: whether the base's weights are random ones, of the same seed.
    """

    def __init__(
        self, program: Any, mapping: Any, labels: Sequence[str] | None = None, seed: int = 0, random: bool = False
    ) -> None:
        base, processor = source("moonshine-tiny")
        base = random_source(base, seed) if random else base
        config = hr.ReprogramConfig(program=program, mapping=mapping, labels=labels, canvas=SECOND)
        self.model, self.seed = hr.get_reprogram_model(base, config, processing_class=processor, seed=seed), seed

    def equalise(self, heard: Rows, wanted: Rows) -> None:
        """Start the first program, a filter, as an equaliser from unlabelled clips."""
        waves = (self.model.collator()(unlabelled(rows))["input_values"] for rows in (heard, wanted))
        self.model.active_programs()[0].estimate(*waves)

    def learn(self, few: Rows, epochs: int) -> None:
        """Teach what trains, every part at its own rate; then estimate a mapping that is estimated, through it.

        Args:
            few: labelled clips.
            epochs: 0 teaches nothing.
        """
        rates = self.model.learning_rates()
        if rates and epochs:  # Trainer estimates a mapping before the first step too
            _train(self.model, few, epochs, self.seed)
        if "mapping" not in rates:
            self.model.fit_mapping(few)

    def right(self, rows: Rows) -> np.ndarray:
        """1 where the mapping is right, row by row."""
        guessed = self.model.predict(rows, batch_size=32, progress=False)
        return _marks([guess["label"] for guess in guessed], labels_of(rows))

    @torch.no_grad()
    def states(self, rows: Rows) -> Tensor:
        """(rows, 2 width): mean and deviation of the encoder's states."""
        collator, reading = self.model.collator(), hr.Reading(**STATES)
        made = collator.lay_out(rows, labelled=False)
        parts = [collator.stack(made[i : i + 32]) for i in range(0, len(made), 32)]
        return torch.cat([self.model.reprogrammed.readout(part, reading) for part in parts])

    @torch.no_grad()
    def probe(self, few: Tensor, labels: Sequence[str], judged: Tensor, truth: Sequence[str]) -> np.ndarray:
        """1 where a ridge on the states of few clips is right, row by row."""
        names = sorted(set(labels))
        ridge = Linear(PROBE, self.model.backbone, names, "single_label_classification")
        ridge.fit(few, torch.tensor([names.index(label) for label in labels]))
        found = ridge(hr.Readout(judged, kind=STATES["kind"])).argmax(1)
        return _marks([names[i] for i in found.tolist()], truth)

    def close(self) -> None:
        """Give the base back."""
        self.model.unload()


def _marks(guessed: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    return np.array([guess == label for guess, label in zip(guessed, truth, strict=True)], dtype=float)


def _train(model: hr.ReprogramModel, rows: Rows, epochs: int, seed: int) -> None:
    """Rates fall to 0 as a cosine does."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            remove_unused_columns=False,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            save_strategy="no",
            logging_strategy="no",
            seed=seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = hr.make_trainer(model, arguments, rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
