#!/usr/bin/env python3
"""The demo's table with its spread: five draws of 32 sentences, every method on the same held-out rows.

Draw 0 is the demo's own 32 sentences; draws 1-4 are other 16 + 16 from the training half. Template, words, rate and
steps are the demo's, fixed beforehand; nothing is chosen on the test rows, which are read once per method and draw.

    python scripts/benchmarks/reviews.py          # about twenty minutes on two cores; saves after every draw, resumes
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py

import demo
import fetch_models
from benchmarks.baselines import Outcome, classical, majority
from benchmarks.intervals import accuracies, collected, gains, kept
from benchmarks.report import Report, Row


TASK = "reviews, 32 sentences"
SHOTS = 16


def draw(data: demo.Data, seed: int) -> demo.Data:
    """The data with other sentences to learn from: the first 16 of each label after a shuffle; seed 0 keeps them."""
    if seed == 0:
        return data
    rows = list(data.train)
    random.Random(seed).shuffle(rows)
    few = [row for label in demo.LABELS for row in [r for r in rows if r["label"] == label][:SHOTS]]
    return demo.Data(few, data.train, data.test)


def outcomes(data: demo.Data, steps: int) -> list[Outcome]:
    """Every method on one draw."""
    made = [classical(data.few, data.test, "32"), *demo.untaught(data)]
    with tempfile.TemporaryDirectory() as folder:
        taught = demo.taught(data, steps, 1, Path(folder) / "program")
    return made + [result.outcome for result in taught.values()]


def measure(data: demo.Data, seed: int, steps: int) -> list[Row]:
    """Rows of one draw: accuracies in percent, and which test rows each method got right (for the intervals)."""
    return [kept(TASK, seed, outcome.method, outcome.right(data.truth)) for outcome in outcomes(data, steps)]


def summary(cells: list[Row], data: demo.Data) -> list[Row]:
    """Means over draws with their spread, and paired gains of ours with 95 % bootstrap intervals."""
    right = collected(cells)[TASK]
    fixed = [majority(data.train, data.test), classical(data.train, data.test, "all")]
    alone = [
        Row(TASK, outcome.method, "accuracy", outcome.accuracy(data.truth), n=1, note="does not depend on the draw")
        for outcome in fixed
    ]
    reached = sorted([*accuracies(TASK, right), *alone], key=lambda row: -row.value)
    return [*reached, *gains(TASK, right)]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args()
    demo.quiet()
    for name in (demo.MODEL, demo.DATA):
        fetch_models.fetch(name)
    data = demo.read_data(2 * SHOTS, options.test_rows)
    about = f"Frozen SmolLM2-135M judges {options.test_rows:,} held-out review sentences; accuracy in percent."
    settings = {"steps": options.steps, "test_rows": options.test_rows, "shots": SHOTS}
    report = Report("reviews", about, settings, list(range(options.draws)), fresh=options.fresh)
    for seed in range(options.draws):
        report.cell(f"draw {seed}", lambda seed=seed: measure(draw(data, seed), seed, options.steps))
    rows = summary(report.rows, data)
    report.publish(rows)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
