#!/usr/bin/env python3
"""Spoken commands read off a frozen recogniser of English without a program: a linear map, or label words untaught.

Forty Arabic commands of speakers that no split shares, sixteen more, English digits and commands. Moonshine-tiny hears
each clip once; a ridge on its vocabulary's first logits, or on its encoder's mean, learns from all labelled clips, and
from one, two and five of each command in five draws. Beside it what is simpler: log-mels with logistic regression, the
same map on a model of random weights, the commonest label. Penalties are chosen by leave-one-out error on what is
learned from, options of label words on the validation split; a test clip chooses nothing.

    python scripts/fetch_models.py moonshine-tiny whisper-tiny.en attention-rnn
    python scripts/benchmarks/speech_commands.py        # under an hour on one core; saves after every cell, resumes
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks.intervals import bootstrap, collected, gains, kept
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.speech_data import AR_SCR, ARABIC, DATA, FSDD, GSC12, TEN, Rows, Task, draw, read
from benchmarks.speech_methods import SECOND, Listener, classical, commonest, log_mels, source

import hf_reprogram as hr
from hf_reprogram.tools.random_source import random_source


ABOUT = "Frozen speech models read by a map, no program; accuracy on the test clips in percent."
MAPS = {
    "token logits": hr.LinearConfig(on="source"),
    "encoder mean": hr.LinearConfig(on="state", pool="mean"),
    "encoder mean and deviation": hr.LinearConfig(on="state", pool="statistics"),
}
FEW = "encoder mean and deviation"  # what few clips are learned on: fixed beforehand
INNER = {  # of the keyword spotter
    "36 logits, logistic": hr.LinearConfig(on="classes", solver="logistic"),
    "36 logits": hr.LinearConfig(on="classes"),
    "layer of 64": hr.LinearConfig(on="state", pool="mean", layer=-2),
    "attention's vector of 128": hr.LinearConfig(on="state", pool="mean", layer=-3),
}
RANDOM = "random_source:{}"
HALF_MINUTE = {**SECOND, "samples": 480_000}
WORDS = {word: [word, word.capitalize()] for word in TEN.words}
BARS = {  # issue 10
    (ARABIC.name, "map_only:token logits"): 93,
    (ARABIC.name, "map_only:encoder mean"): 96,
    (f"{ARABIC.name}, 1 per class", f"map_only:{FEW}"): 74,
    (f"{ARABIC.name}, 2 per class", f"map_only:{FEW}"): 86,
    (f"{ARABIC.name}, 5 per class", f"map_only:{FEW}"): 92.5,
    (TEN.name, "calibrated"): 93.5,
}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        clips: at most so many of a split, of every label alike; None for all.
        shots, draws: of arabic-40.
        sources: seeds of the random weights.
        data: folder of the sets.
        features: folder for what models heard; None keeps it in memory.
    """

    clips: int | None = None
    shots: tuple[int, ...] = (1, 2, 5)
    draws: int = 5
    sources: int = 3
    data: Path = DATA
    features: Path | None = None

    def rows(self, task: Task, split: str) -> Rows:
        """A split, or a trial's part of it."""
        rows = read(task, split, self.data)
        if self.clips is None:
            return rows
        some = sorted({row["label"] for row in rows})[:4]  # four labels are enough for a trial
        rows = [row for row in rows if row["label"] in some]
        return [rows[i] for i in draw([row["label"] for row in rows], self.clips, 0)]

    def folder(self, *names: str) -> Path | None:
        """Where the features of one model, task and reading are kept."""
        return None if self.features is None else self.features.joinpath(*(n.replace(" ", "_") for n in names))


# Cells ---------------------------------------------------------------------------------------------------------------


def simple(plan: Plan, task: Task) -> Iterator[Row]:
    """Without a model."""
    train, test = plan.rows(task, "train"), plan.rows(task, "test")
    labels, truth = [row["label"] for row in train], [row["label"] for row in test]
    yield kept(task.name, 0, "majority", commonest(labels, truth))
    learned, judged = log_mels(train), log_mels(test)
    yield kept(task.name, 0, "classical:log-mel", classical(learned, labels, judged, truth))
    for shots in plan.shots if task is ARABIC else ():
        for seed in range(plan.draws):
            few = draw(labels, shots, seed)
            marks = classical(learned[few], [labels[i] for i in few], judged, truth)
            yield kept(f"{task.name}, {shots} per class", seed, "classical:log-mel", marks)


def mapped(
    plan: Plan,
    task: Task,
    name: str,
    maps: Mapping[str, Any],
    method: str = "map_only:{}",
    seed: int | None = None,
    canvas: dict[str, Any] = SECOND,
) -> Iterator[Row]:
    """Maps on a frozen model, learned from all training clips and, where they read `FEW`, from few of each command.

    Args:
        name: of the model.
        maps: by their names.
        method: its name in the results, with a place for the map's.
        seed: of random weights in the model's place; None for its own.
    """
    base, processor = source(name)
    base = base if seed is None else random_source(base, seed)
    splits = {split: plan.rows(task, split) for split in ("train", "validation", "test")}
    labels = task.labels(splits["train"])
    for told, options in maps.items():
        weights = name if seed is None else f"{name}, random {seed}"
        listener = Listener(base, processor, options, labels, canvas, plan.folder(weights, task.folder, told))
        heard = {split: listener.hear(rows, split) for split, rows in splits.items()}
        validation, test = listener.right(heard["train"], heard["validation"], heard["test"])
        note = f"validation {100 * validation.mean():.1f}"
        yield kept(task.name, seed or 0, method.format(told), test, note)
        for shots in plan.shots if task is ARABIC and told == FEW and not seed else ():  # one random source will do
            for number in range(plan.draws):
                few = heard["train"].select(draw(heard["train"].labels.tolist(), shots, number))
                (marks,) = listener.right(few, heard["test"])
                yield kept(f"{task.name}, {shots} per class", number, method.format(told), marks)
        listener.close()


def whisper(plan: Plan) -> Iterator[Row]:
    """Whisper on a canvas of one second."""
    return mapped(plan, ARABIC, "whisper-tiny.en", MAPS, "map_only:whisper {}")


def half_minute(plan: Plan) -> Iterator[Row]:
    """The same on the half minute that it was made for, which costs thirty times as much: some clips, both ways."""
    train, test = plan.rows(ARABIC, "train"), plan.rows(ARABIC, "test")
    few = [train[i] for i in draw([row["label"] for row in train], 2, 0)]
    part = [test[i] for i in draw([row["label"] for row in test], 3, 0)]
    base, processor = source("whisper-tiny.en")
    for length, canvas in (("1 s", SECOND), ("30 s", HALF_MINUTE)):
        folder = plan.folder("whisper-tiny.en", ARABIC.folder, FEW, length)
        listener = Listener(base, processor, MAPS[FEW], ARABIC.labels(train), canvas, folder)
        (marks,) = listener.right(listener.hear(few, "few"), listener.hear(part, "part"))
        listener.close()
        yield kept(f"{ARABIC.name}, 2 per class, 3 test clips of each", 0, f"map_only:whisper {FEW}, {length}", marks)


def words(plan: Plan) -> Iterator[Row]:
    """Label words at the decoder's first step, untaught; how they are reduced is chosen on the validation split."""
    base, processor = source("moonshine-tiny")
    ways = [(c, r) for c in (None, "words", "batch") for r in ("max", "logsumexp", "mean")]
    heard, found = [], {"zero_shot": [], "calibrated": []}
    for calibration, reduce in ways:
        mapping = hr.VerbalizerConfig(words=WORDS, reduce=reduce, calibration=calibration)
        listener = Listener(base, processor, mapping, None, folder=plan.folder("moonshine-tiny", "words"))
        if not heard:  # all ways read the same logits
            unlabelled = [{"audio": row["audio"]} for row in plan.rows(GSC12, "train")]  # other words, silences too
            heard = [listener.hear(unlabelled, "unlabelled")]
            heard += [listener.hear(plan.rows(TEN, split), split) for split in ("validation", "test")]
        validation, test = listener.right(heard[0] if calibration else None, *heard[1:])
        listener.close()
        name = f"{reduce} by {calibration}" if calibration else reduce
        found["calibrated" if calibration else "zero_shot"].append((100 * validation.mean(), name, test))
    for method, each in found.items():
        best = max(each, key=lambda way: way[0])  # the first of equals
        others = ", ".join(f"{name} {value:.1f} / {100 * test.mean():.1f}" for value, name, test in each)
        yield kept(TEN.name, 0, method, best[2], f"{best[1]}, chosen on validation; validation / test: {others}")


def cells(plan: Plan) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    """All cells, the wanted ones first."""
    moonshine, spotter = "moonshine-tiny", "attention-rnn"
    yield f"{TEN.name}: label words", lambda: words(plan)
    for task in (ARABIC, GSC12, AR_SCR, FSDD):
        yield f"{task.name}: without a model", lambda t=task: simple(plan, t)
        maps = MAPS if task is ARABIC else {name: MAPS[name] for name in MAPS if name != FEW}
        yield f"{task.name}: {moonshine}", lambda t=task, m=maps: mapped(plan, t, moonshine, m)
    for task in (AR_SCR, GSC12, ARABIC):
        yield f"{task.name}: {spotter}", lambda t=task: mapped(plan, t, spotter, INNER, "map_only:spotter {}")
    yield f"{ARABIC.name}: whisper-tiny.en", lambda: whisper(plan)
    for seed in range(plan.sources):
        yield f"{ARABIC.name}: random {seed}", lambda s=seed: mapped(plan, ARABIC, moonshine, MAPS, RANDOM, s)
        yield (
            f"{AR_SCR.name}: random {seed}",
            lambda s=seed: mapped(plan, AR_SCR, spotter, INNER, RANDOM.format("spotter {}"), s),
        )
    yield f"{ARABIC.name}: half a minute", lambda: half_minute(plan)


# What is told --------------------------------------------------------------------------------------------------------


def summary(found: Sequence[Row]) -> list[Row]:
    """Accuracies with their intervals and bars, best first; what a map gains over the controls of the same task."""
    rows, notes = [], {(r.task.rpartition(", draw ")[0], r.method): r.note.partition(" ")[2] for r in found}
    for task, right in collected(found).items():
        made = [_accuracy(task, method, draws, notes[task, method]) for method, draws in right.items()]
        rows += sorted(made, key=lambda row: -row.value)
        for method in right:
            for other in _controls(method, right):
                both = {m: _as_often(right[m], right[other], right[method]) for m in (method, other)}
                rows += gains(task, both, method)
    return rows


def _accuracy(task: str, method: str, draws: Mapping[int, np.ndarray], note: str) -> Row:
    value, low, high = bootstrap(np.stack([draws[d] for d in sorted(draws)]))
    limit = BARS.get((task, method))
    told = [f"bar >= {limit:g}: {'met' if value >= limit else 'NOT met'}"] if limit is not None else []
    each = ", ".join(f"{100 * marks.mean():.1f}" for marks in draws.values())
    told += [f"draws {each}"] if len(draws) > 1 else [note]
    return Row(task, method, "accuracy", value, low, high, len(draws), "; ".join(part for part in told if part))


def _controls(method: str, right: Mapping[str, Any]) -> list[str]:
    """What a method is compared with."""
    kind, _, way = method.partition(":")
    if kind == "calibrated":
        return ["zero_shot"]
    wanted = ["classical:log-mel", f"random_source:{way}"] if kind == "map_only" else []
    return [other for other in wanted if other in right]


def _as_often(draws: Mapping[int, np.ndarray], *others: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """A method that leaves nothing to chance has one draw: it stands beside every draw of the others."""
    every = sorted({d for other in others for d in other})
    return {d: draws[d if len(draws) > 1 else 0] for d in every}


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--features", type=Path, help="folder that keeps what models heard, for later runs")
    parser.add_argument("--quick", action="store_true", help="a few clips of four commands (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    for name in ("moonshine-tiny", "whisper-tiny.en", "attention-rnn"):
        fetch_models.fetch(name)
    plan = Plan(data=options.data, features=options.features)
    if options.quick:
        plan = replace(plan, clips=3, shots=(2,), draws=2, sources=1)
    settings = {
        "bases": "float32",
        "threads": 1,
        "canvas": SECOND,
        "clips": plan.clips or "all",
        "draws": plan.draws,
        "label words": "lower-case and capitalised",
    }
    folder = SCRATCH if options.quick else RESULTS
    seeds, command = list(range(plan.draws)), "python scripts/benchmarks/speech_commands.py"
    report = Report("speech_commands", ABOUT, settings, seeds, folder, options.fresh, command)
    for key, measure in () if options.finish else cells(plan):
        report.cell(key, measure)
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
