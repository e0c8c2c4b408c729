"""What the speech demo hears: synthetic tones, and a hum that drowns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


NOTES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
RATE, FRAME = 16000, 1024  # samples per second, samples that CREPE hears at once
LOUDNESS = 0.3  # of the hum; the tones have an RMS of 0.025 to 0.05
PERIOD = RATE // 50  # samples after which the hum repeats

Row = dict[str, Any]


def hum(samples: np.ndarray) -> np.ndarray:
    """The hum at some samples of its own clock."""
    turns = 2 * np.pi * samples / RATE
    return LOUDNESS * (np.sin(50 * turns + 0.3) + 0.6 * np.sin(100 * turns + 1.1) + 0.4 * np.sin(150 * turns + 2.0))


def frames(count: int, seed: Sequence[int], hummed: bool) -> list[Row]:
    """Tones of three octaves from C3 on, slightly out of tune, of six harmonics, with a little noise.

    A frame begins at a random sample of the hum's clock, which its `offset` says. One seed gives the same tones with
    and without the hum.
    """
    draw, time_ = np.random.default_rng(seed), np.arange(FRAME)
    rows = []
    for i in range(count):
        note = i % 12
        midi = 48 + 12 * draw.integers(3) + note + draw.uniform(-0.3, 0.3)
        turns = 2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time_ / RATE
        harmonics = range(1, 7)
        tone = sum(draw.uniform(0.3, 1) / k * np.sin(k * turns + draw.uniform(0, 2 * np.pi)) for k in harmonics)
        tone *= 0.05 * draw.uniform(0.5, 1) / np.sqrt(np.square(tone).mean())
        wave = tone + 1e-3 * draw.standard_normal(FRAME)
        offset = int(draw.integers(10 * RATE))
        if hummed:
            wave = wave + hum(offset + time_)
        audio = {"array": wave.astype(np.float32), "sampling_rate": RATE}
        rows.append({"audio": audio, "offset": offset, "label": NOTES[note]})
    return rows


@dataclass(frozen=True)
class Data:
    """Frames under the hum to learn from and to judge, and the judged ones without it."""

    train: list[Row]
    hummed: list[Row]
    clean: list[Row]

    @property
    def truth(self) -> list[str]:
        """Labels of the judged frames."""
        return [row["label"] for row in self.hummed]


def make_data(train_rows: int, test_rows: int, seed: int = 0) -> Data:
    """Frames to learn from by the seed; the judged ones are always the same."""
    judged = [frames(test_rows, (0, 1), hummed) for hummed in (True, False)]
    return Data(frames(train_rows, (seed, 0), True), *judged)
