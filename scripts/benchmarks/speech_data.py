"""The clips of speech_commands.py: four sets of spoken commands, as rows of the library."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from benchmarks.report import ROOT


DATA = ROOT.parent / "shared" / "data"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One set.

    Args:
        name: in the results.
        folder: in shared/data.
        rate: the clips are brought to it first, samples per second; None leaves theirs.
        held_out: so many training clips are the validation split, and twice as many are for training (seed 0); 0 where
            the set has one of its own.
        words: labels that count; () for all.
    """

    name: str
    folder: str
    rate: int | None = None
    held_out: int = 0
    words: tuple[str, ...] = ()

    def labels(self, rows: Rows) -> list[str]:
        """Its labels in a fixed order."""
        return sorted({row["label"] for row in rows})


# Speakers are disjoint in arabic-40 and gsc12, and cross the splits in the others. In ar-scr digits were recorded at
# 8 kHz and words at 48: what lies above 4 kHz tells them apart, so it is taken away.
ARABIC = Task("arabic-40", "arabic-40")
AR_SCR = Task("ar-scr, 4 kHz band", "ar-scr", rate=8000)
GSC12 = Task("gsc12", "gsc12")
FSDD = Task("fsdd", "fsdd", held_out=300)
TEN = Task("gsc12, ten words", "gsc12", words=("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"))


def read(task: Task, split: str, folder: Path = DATA) -> Rows:
    """Rows of `audio` and `label`."""
    if task.held_out and split != "test":
        rows = _clips(task, "train", folder)
        order = np.random.default_rng(0).permutation(len(rows))
        cut = {"validation": slice(task.held_out), "train": slice(task.held_out, 3 * task.held_out)}[split]
        return [rows[i] for i in order[cut]]
    return [row for row in _clips(task, split, folder) if not task.words or row["label"] in task.words]


def _clips(task: Task, split: str, folder: Path) -> Rows:
    """All clips of a split, which lie in one file one after the other."""
    wave, rate = soundfile.read(folder / task.folder / f"{split}.ogg", dtype="float32")
    with open(folder / task.folder / "index.csv", newline="", encoding="utf-8") as lines:
        found = [line for line in csv.DictReader(lines) if line["split"] == split]
    rows = []
    for line in found:
        start = int(line["start"])
        clip = _at_rate(wave[start : start + int(line["length"])], rate, task.rate)
        rows.append({"audio": {"array": clip, "sampling_rate": task.rate or rate}, "label": line["label"]})
    return rows


def _at_rate(clip: np.ndarray, rate: int, wanted: int | None) -> np.ndarray:
    if wanted in (None, rate):
        return clip
    import torch
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(clip), rate, wanted).numpy()


def draw(labels: Sequence[Any], shots: int, seed: int) -> list[int]:
    """Places of `shots` rows of each label, the first ones after a seeded shuffle."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    return [i for label in sorted(set(labels)) for i in [j for j in order if labels[j] == label][:shots]]
