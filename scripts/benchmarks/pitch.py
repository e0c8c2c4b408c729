#!/usr/bin/env python3
"""The speech demo's table with its spread: three draws of frames to learn from, all judged on the same held-out ones.

Draw 0 is the demo's own. A draw has its own frames, order of training and random weights. Period, rate and epochs are
the demo's, fixed beforehand; nothing is chosen on the test frames.

    python scripts/benchmarks/pitch.py          # about three minutes on one core; saves after every draw, resumes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo_speech.py and fetch_models.py

import demo_speech
import fetch_models
from benchmarks.intervals import accuracies, collected, gains, kept
from benchmarks.report import Report, Row
from demo import quiet
from demo_speech_sounds import LOUDNESS, PERIOD, make_data


TRAIN_ROWS, TEST_ROWS = 240, 600


def draw(seed: int) -> list[Row]:
    """Rows of one draw: accuracies in percent, and which test frames each method got right (for the intervals)."""
    data = make_data(TRAIN_ROWS, TEST_ROWS, seed)
    found, _ = demo_speech.measure(data, demo_speech.EPOCHS, seed)
    return [kept(task, seed, outcome.method, outcome.right(data.truth)) for task in found for outcome in found[task]]


def summary(cells: list[Row]) -> list[Row]:
    """Means over draws with their spread, and paired gains of ours under the hum with 95 % bootstrap intervals."""
    right = collected(cells)
    hum = right[demo_speech.HUM]
    return [row for task in right for row in accuracies(task, right[task])] + gains(demo_speech.HUM, hum)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args()
    quiet()
    fetch_models.fetch(demo_speech.MODEL)
    about = (
        f"Frozen CREPE-tiny names the pitch class of {TEST_ROWS} held-out synthetic frames, with and without a hum of "
        "50, 100 and 150 Hz; accuracy in percent."
    )
    settings = {
        "epochs": demo_speech.EPOCHS, "learning_rate": demo_speech.LEARNING_RATE, "batch": demo_speech.BATCH,
        "train_rows": TRAIN_ROWS, "test_rows": TEST_ROWS, "period": PERIOD, "loudness": LOUDNESS,
        "unlabelled": demo_speech.UNLABELLED,
    }  # fmt: skip
    report = Report("pitch", about, settings, list(range(options.draws)), fresh=options.fresh)
    for seed in range(options.draws):
        report.cell(f"draw {seed}", lambda seed=seed: draw(seed))
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
