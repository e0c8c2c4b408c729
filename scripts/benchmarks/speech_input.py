#!/usr/bin/env python3
"""Where a program of the input pays on a frozen recogniser: clips that came through a channel, and new words.

Moonshine-tiny hears ten English words through a known channel (speech_channels.py), where its label words fail. Ten
clips of each word are there to learn from. Labels teach a filter, vectors inside the encoder, a network on the wave;
without labels or training, a filter begins as an equaliser (`estimate`), alone or with vectors taught behind it.
Beside them, from the same clips: the words alone, calibrated on them; a ridge on the encoder's states; a program on
random weights; an equaliser in another form, which needs no model. Then the programs go as they are to Arabic through
the same channel, where a ridge learns forty commands from one, two or five clips of each. Last, programs taught on
Arabic clips that came through no channel, together with their map.

Every part trains at its own default rate. Channel, programs, batch and epochs were chosen on validation clips and one
draw of training clips; a test clip chooses nothing.

    python scripts/fetch_models.py moonshine-tiny
    python scripts/benchmarks/speech_input.py      # half an hour on an idle core; saves after every cell, resumes
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import torch
from benchmarks.intervals import accuracies, collected, gains, kept
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.speech_channels import CLEAN, MUFFLED, Channel, equaliser
from benchmarks.speech_commands import WORDS
from benchmarks.speech_data import ARABIC, DATA, TEN, Rows, Task, draw, read
from benchmarks.speech_hearer import BATCH, Hearer, labels_of
from benchmarks.speech_methods import SECOND, commonest

import hf_reprogram as hr


ABOUT = "Frozen Moonshine-tiny hears clips through a channel, with and without a program; accuracy in percent."
LABEL_WORDS = hr.VerbalizerConfig(words=WORDS, reduce="logsumexp", calibration="words")
JOINT = hr.LinearConfig(on="state", pool="statistics", solver="gradient", start="ridge")
EQUALISER = "equaliser"  # programs of this name begin as one, from unlabelled clips
PROGRAMS = {
    EQUALISER: hr.WaveformFirConfig(),
    f"{EQUALISER} and shift": [hr.WaveformFirConfig(), hr.LatentShiftConfig(layers=None)],
    "filter": hr.WaveformFirConfig(),
    "shift": hr.LatentShiftConfig(layers=None),
    "network": hr.WaveformConvConfig(),
    "frames": hr.LatentInsertConfig(),
}
ENGLISH = " of English"  # behind a program that was taught on English
PROBE = " + probe"  # behind a method whose states are read by a ridge
TESTED = 1000  # seed of the noise on test clips; those of training clips are the draws'


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        labelled: clips of each English word that teach a program.
        shots: Arabic clips of each command that teach a map.
        taught: Arabic clips of each command that teach a program and its map.
        judged: test clips of each English word, and of each Arabic command.
        epochs: of a program.
        seeds: draws of clips; starts and orders of training.
        data: folder of the sets.
    """

    labelled: int = 10
    shots: tuple[int, ...] = (1, 2, 5)
    taught: int = 2
    judged: tuple[int, int] = (20, 4)
    epochs: int = 6
    seeds: int = 3
    data: Path = DATA

    def few(self, task: Task, channel: Channel, shots: int, seed: int) -> Rows:
        """Training clips of a draw, through a channel."""
        return channel.through(some(read(task, "train", self.data), shots, seed), seed)

    def test(self, task: Task, channel: Channel) -> Rows:
        """Test clips, the same for all, through a channel."""
        return channel.through(some(read(task, "test", self.data), self.judged[task is ARABIC], 0), TESTED)

    def clean(self) -> Rows:
        """English clips that came through no channel; their labels are not used."""
        return read(TEN, "validation", self.data)


def some(rows: Rows, shots: int, seed: int) -> Rows:
    """So many of each label."""
    return [rows[i] for i in draw(labels_of(rows), shots, seed)]


# Cells --------------------------------------------------------------------------------------------------------------


def english(plan: Plan, channel: Channel, name: str | None, seed: int, random: bool = False) -> Iterator[Row]:
    """A program taught on few English clips of a channel, judged there and before Arabic ones; None: no program."""
    hearer = Hearer(PROGRAMS[name] if name else "none", LABEL_WORDS, seed=seed, random=random)
    few, test = plan.few(TEN, channel, plan.labelled, seed), plan.test(TEN, channel)
    if name and name.startswith(EQUALISER):
        hearer.equalise(few, plan.clean())
    hearer.learn(few, 0 if name == EQUALISER else plan.epochs)
    task, kind = f"{TEN.name}, {channel.name}", "random_source" if random else "ours"
    yield kept(task, seed, f"{kind}:{name}" if name else "map_only", hearer.right(test))
    if not random:
        yield probed(hearer, task, few, test, seed, f"{kind}:{name}{PROBE}" if name else "probe")
        yield from arabic(plan, hearer, channel, seed, f"ours:{name}{ENGLISH}" if name else "map_only")
    hearer.close()


def probed(hearer: Hearer, task: str, few: Rows, test: Rows, seed: int, method: str) -> Row:
    """A ridge on what the encoder makes of few clips."""
    states = [hearer.states(rows) for rows in (few, test)]
    return kept(task, seed, method, hearer.probe(states[0], labels_of(few), states[1], labels_of(test)))


def arabic(plan: Plan, hearer: Hearer, channel: Channel, seed: int, method: str) -> Iterator[Row]:
    """Maps of forty commands from few clips of each, on a frozen model under a finished program."""
    most = max(plan.shots)
    few, test = plan.few(ARABIC, channel, most, seed), plan.test(ARABIC, channel)
    heard, judged, labels = hearer.states(few), hearer.states(test), labels_of(few)
    for shots in plan.shots:
        part = [i for i in range(len(few)) if i % most < shots]  # label by label: a smaller draw begins a larger one
        marks = hearer.probe(heard[part], [labels[i] for i in part], judged, labels_of(test))
        yield kept(f"{ARABIC.name}, {shots} per class, {channel.name}", seed, method, marks)


def equalised(plan: Plan, channel: Channel, seed: int) -> Iterator[Row]:
    """No program: clips filtered until their mean spectrum is that of clean clips of the same words."""
    few, test = plan.few(TEN, channel, plan.labelled, seed), plan.test(TEN, channel)
    filtered = equaliser(few, plan.clean())
    few, test = filtered.through(few), filtered.through(test)
    hearer = Hearer("none", LABEL_WORDS)
    hearer.learn(few, 0)
    task = f"{TEN.name}, {channel.name}"
    yield kept(task, seed, f"classical:{EQUALISER}", hearer.right(test))
    yield probed(hearer, task, few, test, seed, f"classical:{EQUALISER}{PROBE}")
    hearer.close()


def taught(plan: Plan, name: str, seed: int) -> Iterator[Row]:
    """A program and its map, taught together on few Arabic clips; then a ridge through that program."""
    few, test = plan.few(ARABIC, CLEAN, plan.taught, seed), plan.test(ARABIC, CLEAN)
    hearer = Hearer(PROGRAMS[name], JOINT, sorted(set(labels_of(few))), seed)
    hearer.learn(few, plan.epochs)
    task = f"{ARABIC.name}, {plan.taught} per class, {CLEAN.name}"
    yield kept(task, seed, f"ours:{name} and map", hearer.right(test))
    yield probed(hearer, task, few, test, seed, f"ours:{name}")
    hearer.close()


def majority(plan: Plan) -> Iterator[Row]:
    """The commonest label."""
    for task in (TEN, ARABIC):
        train, test = read(task, "train", plan.data), plan.test(task, CLEAN)
        yield kept(task.name, 0, "majority", commonest(labels_of(train), labels_of(test)))


def cells(plan: Plan) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    """All cells, the wanted ones first."""
    seeds = range(plan.seeds)
    yield "majority", lambda: majority(plan)

    def each(name: str | None, channel: Channel = MUFFLED, random: bool = False) -> Iterator[tuple[str, Any]]:
        for s in seeds:
            key = f"{channel.name}: {name or 'no program'}{' on random weights' * random}, {s}"
            yield key, lambda s=s: english(plan, channel, name, s, random)

    for name in (None, EQUALISER, f"{EQUALISER} and shift"):
        yield from each(name)
    for s in seeds:
        yield f"{MUFFLED.name}: classical equaliser, {s}", lambda s=s: equalised(plan, MUFFLED, s)
    yield from each(None, CLEAN)
    yield from each("filter")
    yield from each("shift")
    yield from each(f"{EQUALISER} and shift", random=True)
    yield from each("network")
    for name in ("shift", "frames"):
        for s in seeds:
            yield f"Arabic: {name}, {s}", lambda n=name, s=s: taught(plan, n, s)


# What is told -------------------------------------------------------------------------------------------------------


def summary(found: Sequence[Row]) -> list[Row]:
    """Means over seeds, and what every program adds to the map alone and to the other controls of its task."""
    rows = []
    for task, right in collected(found).items():
        rows += [replace(row, note=row.note.replace("draws", "seeds")) for row in accuracies(task, right)]
        for method in (m for m in right if m.startswith("ours:")):
            rows += gains(task, {m: right[m] for m in (method, *controls(method)) if m in right}, method)
    return rows


def controls(method: str) -> list[str]:
    """What a program is compared with, read in the same way; label words with a ridge of the same clips too."""
    ending = next((e for e in (PROBE, ENGLISH) if method.endswith(e)), "")
    alone = {PROBE: ["probe"], ENGLISH: ["map_only"], "": ["map_only", "probe"]}[ending]
    others = [f"{kind}:{EQUALISER}{ending}" for kind in ("classical", "ours")]
    return [other for other in (*alone, *others, method.replace("ours", "random_source", 1)) if other != method]


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--quick", action="store_true", help="one epoch on a few clips (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    fetch_models.fetch("moonshine-tiny")
    plan = Plan(data=options.data)
    if options.quick:
        plan = replace(plan, labelled=1, shots=(1,), taught=1, judged=(1, 1), epochs=1, seeds=1)
    settings = {
        "base": "moonshine-tiny, float32",
        "threads": 1,
        "canvas": SECOND,
        "channel": "24 dB an octave above 500 Hz, then white noise 50 dB below",
        "programs": list(PROGRAMS),
        "rates": "the programs' own, cosine",
        "batch": BATCH,
        "epochs": plan.epochs,
        "English clips of each word": plan.labelled,
        "test clips of each word and of each command": plan.judged,
        "label words": "lower-case and capitalised, logsumexp, calibrated by words",
    }
    folder, command = SCRATCH if options.quick else RESULTS, "python scripts/benchmarks/speech_input.py"
    report = Report("speech_input", ABOUT, settings, list(range(plan.seeds)), folder, options.fresh, command)
    for key, measure in () if options.finish else cells(plan):
        report.cell(key, measure)
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
