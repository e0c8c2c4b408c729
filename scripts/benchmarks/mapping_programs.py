#!/usr/bin/env python3
"""What maps are worth once a program stands before the frozen model: those of mapping_study.py, with and without one.

The sources of mapping_study.py that give gradients, on its targets. On three of four of 16 rows a class a program
(vectors in front of and behind a text, a sound added to a sound) is trained under a ridge map of the model's own
answers, estimated anew after each epoch; the rate and the step are chosen on the fourth row, and the start is one of
those to choose from: without that choice, sounds did harm. Then every map is fitted on the answers that the model
gives under the program to all 16 rows, and beside it on those without.

    python scripts/fetch_models.py attention-rnn moonshine-tiny smollm2-135m minilm-l6
    python scripts/benchmarks/mapping_programs.py         # hours on one core; saves after every cell, resumes
    python scripts/benchmarks/mapping_programs.py --only moonshine-tiny     # one source, into results of its own
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import numpy as np
import torch
from benchmarks import mapping_study as study
from benchmarks.mapping_study import BALANCED, TEXTS
from benchmarks.report import DEVICE, RESULTS, SCRATCH, Report, Row
from sklearn.metrics import balanced_accuracy_score
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

import hf_reprogram as hr


ABOUT = (
    "Maps of frozen models' own answers with a trained program before the model and without one, both fitted on the "
    "same 16 rows a class; balanced accuracy on the test rows in percent, mean over draws (worst to best)."
)
PAIRS = [(source, target) for source, target in study.PAIRS if "anchors" not in source]  # it is asked: no gradient
WITH, WITHOUT = "under a program", "as it is"
CHOSEN = "trained_rather_than_start"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Args:
        pairs: of source and target.
        rows: from which draws are taken, and which are judged.
        shots: rows a class.
        draws: of each.
        steps: of training, eight rows each.
        every: so many steps the program is judged on the rows held out.
        rates: shares of the library's own rate, each of which is tried.
    """

    pairs: int = len(PAIRS)
    rows: tuple[int, int] = (400, 400)
    shots: int = 16
    draws: int = 3
    steps: int = 48
    every: int = 12
    rates: tuple[float, ...] = (1.0, 0.1)


class Watch(TrainerCallback):
    """Keeps the program under which a ridge map of the rows that are learned from does best on those held out."""

    def __init__(self, model: Any, learn: Rows, held: Rows, every: int) -> None:
        self.model, self.parts, self.every = model, (learn, held), every
        self.mark, self.step, self.state = -1.0, 0, dict[str, torch.Tensor]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The start is one of those to choose from."""
        self.look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look every few steps."""
        if state.global_step % self.every == 0:
            self.look(state.global_step)

    def look(self, step: int) -> None:
        """Judge the program as it is now; the earlier of two that do equally well is kept."""
        mark = self.judged()
        if mark > self.mark:
            self.mark, self.step = mark, step
            self.state = copy.deepcopy(program_of(self.model).state_dict())

    @torch.no_grad()
    def judged(self) -> float:
        """Balanced accuracy on the rows held out."""
        mapping = copy.deepcopy(self.model.active_mapping()).cpu()
        reading = mapping.reading()
        seen, judged = (study.read(self.model, part, [reading])[0] for part in self.parts)
        y, y_held = ([mapping.labels.index(row["label"]) for row in part] for part in self.parts)
        mapping.fit(seen, torch.tensor(y))
        said = mapping(hr.Readout(judged, kind=reading.kind)).argmax(1)
        return float(balanced_accuracy_score(y_held, said.numpy()))


def program_of(model: Any) -> torch.nn.ModuleList:
    """The parts of the model's one program."""
    return torch.nn.ModuleList(model.active_programs())


def held_out(few: Rows) -> tuple[Rows, Rows]:
    """(Rows to learn from, every fourth of each label to choose on)."""
    order = {label: [row for row in few if row["label"] == label] for label in sorted({row["label"] for row in few})}
    learn = [row for rows in order.values() for i, row in enumerate(rows) if i % 4 != 3]
    return learn, [row for rows in order.values() for i, row in enumerate(rows) if i % 4 == 3] or learn


def taught(source: str, target: str, few: Rows, labels: list[str], seed: int, plan: Plan) -> tuple[Any, str]:
    """(The frozen source under the best program of all rates and steps and of the start, which of them it is)."""
    program: Any = "waveform"
    if target in TEXTS:
        program = hr.PromptConfig(template=TEXTS[target].template, init_text=list(TEXTS[target].start))
    learn, held = held_out(few)
    best, which = None, ""
    for share in plan.rates:
        model = study.model_of(source, target, labels, program)
        watch = Watch(model, learn, held, plan.every)
        train(model, learn, share * model.learning_rate, seed, plan, watch)
        if best is None or watch.mark > best.mark:
            best, which = watch, f"{watch.step} steps at {share:g} of the rate" if watch.step else "the start"
        model.unload()
    assert best is not None
    model = study.model_of(source, target, labels, program)
    program_of(model).load_state_dict(best.state)
    return model, which


def train(model: Any, rows: Rows, rate: float, seed: int, plan: Plan, watch: Watch) -> None:
    """Teach the program."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=plan.steps, per_device_train_batch_size=8, remove_unused_columns=False, report_to=[],
            save_strategy="no", use_cpu=DEVICE == "cpu", seed=seed, disable_tqdm=True, logging_strategy="no",
            max_grad_norm=model.backbone.rms(), learning_rate=rate,
        )  # fmt: skip
        trainer = hr.make_trainer(model, arguments, rows, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def cell(source: str, target: str, seed: int, plan: Plan) -> Iterator[Row]:
    """Every map under the program and without it."""
    torch.set_num_threads(1)
    pool, test = study.rows_of(target, study.Plan(pool=plan.rows[0], test=plan.rows[1]))
    labels = sorted({row["label"] for row in pool})
    y, y_test = (np.array([labels.index(row["label"]) for row in part]) for part in (pool, test))
    chosen = study.drawn(y, plan.shots, seed)
    few = [pool[i] for i in chosen]
    maps = {name: each for name, each in study.mappings(source, target, labels).items() if each.type != "similarity"}
    for way in (WITHOUT, WITH):
        if way == WITHOUT:
            model = study.model_of(source, target, labels)
        else:
            model, which = taught(source, target, few, labels, seed, plan)
        reading = model.active_mapping().reading()
        seen, judged = (study.Answers(*study.read(model, part, [reading])) for part in (few, test))
        right = study.fitted(model, maps, seen, y[chosen], judged, y_test)
        yield from study.judged_rows(f"{source} on {target}, {way}, draw {seed}", right, len(y_test))
        model.unload()
    yield Row(f"{source} on {target}, draw {seed}", "program", CHOSEN, float(which != "the start"), note=which)


def summary(cells: Sequence[Row]) -> list[Row]:
    """Means over draws; what the program adds to each map; how far `auto` is from the best map."""
    mean = {
        task: {name: float(np.mean(values)) for name, values in methods.items()}
        for task, methods in study.means(cells, BALANCED).items()
    }
    gained: dict[tuple[str, str], list[float]] = {}
    for task, marks in mean.items():
        pair, _, way = task.rpartition(", ")
        if way == WITH:
            for name in marks.keys() & mean[f"{pair}, {WITHOUT}"].keys():
                for where in ("all", pair.split(" on ")[0]):
                    gained.setdefault((where, name), []).append(marks[name] - mean[f"{pair}, {WITHOUT}"][name])
    rows = [study.behind([row for row in cells if f", {way}, " in row.task], BALANCED) for way in (WITHOUT, WITH)]
    rows = [replace(row, task=f"all, {way}") for way, row in zip((WITHOUT, WITH), rows, strict=True)]
    rows += [
        Row(where, name, "gain_of_program", float(np.mean(values)), min(values), max(values), len(values), "of pairs")
        for (where, name), values in sorted(gained.items(), key=lambda item: (item[0][0], -np.mean(item[1])))
    ]
    for where in sorted({where for where, _ in gained}):
        found = [
            r.value for r in cells if r.metric == CHOSEN and (where == "all" or r.task.startswith(where + " on "))
        ]
        rows.append(Row(where, "program", CHOSEN, float(np.mean(found)), n=len(found), note="share of draws"))
    for task, methods in study.means(cells, BALANCED).items():
        for name in sorted(methods, key=lambda n: -mean[task][n]):
            values = methods[name]
            rows.append(Row(task, name, BALANCED, mean[task][name], min(values), max(values), len(values)))
    return rows


QUICK = Plan(pairs=1, rows=(80, 20), shots=2, draws=1, steps=1, every=1)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pair, a few rows (a trial, no evidence)")
    parser.add_argument("--only", metavar="SOURCE", choices=sorted({source for source, _ in PAIRS}), help="one source")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="cells at once")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    plan = QUICK if options.quick else Plan()
    pairs = [(source, target) for source, target in PAIRS if options.only in (None, source)][: plan.pairs]
    settings = {"threads": 1, "pairs": [" on ".join(pair) for pair in pairs], "plan": asdict(plan)}
    folder, name = SCRATCH if options.quick else RESULTS, "mapping_programs"
    command = "python scripts/benchmarks/mapping_programs.py"
    if options.only:
        name, command = f"{name}_{options.only}", f"{command} --only {options.only}"
    report = Report(name, ABOUT, settings, list(range(plan.draws)), folder, options.fresh, command)
    if not options.finish:
        each = product(range(plan.draws), pairs)
        report.jobs(((f"{s} on {t}, draw {n}", partial(cell, s, t, n, plan)) for n, (s, t) in each), options.workers)
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
