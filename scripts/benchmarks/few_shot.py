#!/usr/bin/env python3
"""A few labelled sentences and a frozen SmolLM2-135M: what a program of ten vectors learns, beside everything simpler.

SST-2 (872 validation sentences) and TREC (500 test questions); 16 labelled rows per class in five draws, and the curve
over 4, 16 and 64; with `--curve` the curve alone, on MPQA, MR and AG News (982, 1,067 and 1,000 test rows). Template,
words, rate and steps were fixed beforehand (few_shot_tasks.py); the labelled rows are all that a method sees, and the
test rows choose nothing. PEFT's rate is the exception, in its favour: the one that does best on the test rows is the
one that counts.

    python scripts/fetch_models.py smollm2-135m minilm-l6
    python scripts/benchmarks/few_shot.py         # hours on one core; saves after every cell, resumes
    python scripts/benchmarks/few_shot.py --curve # the other three tasks, results of their own
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks import peft_baselines
from benchmarks.baselines import (
    Outcome,
    Untaught,
    classical,
    encoder_probe,
    encoder_states,
    guesses,
    in_slices,
    majority,
)
from benchmarks.few_shot_tasks import AG_NEWS, DATA, MPQA, MR, SST2, TREC, Rows, Task, draw, in_turn, judged, read
from benchmarks.intervals import accuracies, collected, gains, kept
from benchmarks.report import DEVICE, RESULTS, SCRATCH, Report, Row
from benchmarks.side_by_side import Progress
from transformers import AutoModel, AutoTokenizer, PrinterCallback, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.tools.random_source import random_source


BATCH = 8
ABOUT = (
    "Frozen SmolLM2-135M, a few labelled rows per class, ten trained vectors; accuracy on the test rows in percent."
)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # of PEFT's prompt tuning, in units of the embeddings; ours is 0.07 RMS = 0.0095


# Models --------------------------------------------------------------------------------------------------------------


@functools.cache
def smollm2() -> tuple[Any, Any]:
    """The frozen model in float32, and its tokenizer."""
    base, tokenizer = demo.load_base()
    return base.to(DEVICE), tokenizer


def arguments(folder: str, rate: float, clip: float, steps: int, seed: int) -> TrainingArguments:
    """The same for every method that is trained; rows come in the order in which they are given."""
    return TrainingArguments(
        folder,
        remove_unused_columns=False,
        learning_rate=rate,  # falls linearly to 0
        weight_decay=0.0,
        max_grad_norm=clip,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="sequential",
        seed=seed,
        use_cpu=DEVICE == "cpu",
        dataloader_pin_memory=False,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def ours(task: Task, few: Rows, test: Rows, seed: int, steps: int, source: int | None = None) -> Outcome:
    """Ten vectors in SmolLM2's input, trained on the few rows.

    Args:
        source: seed of a random source in SmolLM2's place; None is the real one.
    """
    base, tokenizer = smollm2()
    if source is not None:
        base = random_source(base, source)
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(template=task.template, init_text=list(task.start)),
        mapping=hr.VerbalizerConfig(**task.verbalizer),
    )
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer, seed=seed)
    bar = Progress("ours" if source is None else "random source", steps * BATCH * demo.TRAINING_COST + len(test))
    try:
        with tempfile.TemporaryDirectory() as folder:
            plan = arguments(folder, model.learning_rate, model.backbone.rms(), steps, seed)
            trainer = hr.make_trainer(model, plan, in_turn(few, steps * BATCH, seed, task.join))
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(demo.Reporter(lambda units, note: bar.tell(10 * units, note)))
            trainer.train()
        scores = in_slices(test, lambda part: model.score(part, progress=False), bar.tell, size=16)
    finally:
        bar.close()
        model.unload()
    method = "ours" if source is None else "random_source"
    return Outcome(method, guesses(scores, task.labels), sum(p.numel() for p in model.parameters()), 0, 0.0, scores)


def peft(task: Task, few: Rows, test: Rows, seed: int, steps: int, rate: float) -> Outcome:
    """PEFT's prompt tuning: as many vectors with the same start, in front of the text; rows, loss, steps as ours."""
    base, tokenizer = smollm2()
    bar = Progress(f"PEFT {rate:g}", len(test))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return peft_baselines.prompt_tuning(
                base,
                tokenizer,
                task.untaught,
                task.verbalizer,
                _spaced(in_turn(few, steps * BATCH, seed, task.join)),
                _spaced(test),
                arguments(folder, rate, 1.0, steps, seed),
                slots=10,
                init_text="".join(task.start),
                tick=bar.tell,
            )
    finally:
        bar.close()


def _spaced(rows: Rows) -> Rows:
    """A space before each text, as it has after our slots, so that its first word is the same token."""
    return [{**row, "text": " " + row["text"]} for row in rows]


# Cells ---------------------------------------------------------------------------------------------------------------


def untaught(task: Task, tables: Sequence[Table], data: Path, test_rows: int | None) -> Iterator[Row]:
    """All that is not trained by gradients, for all tables of a task: one pass of the frozen model over the test."""
    train, test = read(task, "train", data), judged(task, data)[:test_rows]
    truth = [row["label"] for row in test]
    base, tokenizer = smollm2()
    bar = Progress("untaught", len(test) + sum(t.shots * len(task.labels) * t.draws for t in tables))
    model = Untaught(
        base, tokenizer, task.untaught, task.verbalizer, _spaced(test), content_free=" N/A", tick=bar.tell
    )
    folder = fetch_models.asset_path("minilm-l6")
    encoder, words = (kind.from_pretrained(folder, local_files_only=True) for kind in (AutoModel, AutoTokenizer))
    states = encoder_states(encoder.eval(), words, test)
    alike = [majority(train, test), classical(train, test, "all"), model.words("zero_shot"), model.words("calibrated")]
    for table in tables:
        for seed in range(table.draws):
            few = draw(task, train, table.shots, seed)
            rows = {"": few}
            if task.join > 1 and table.controls:  # the longer texts that trained methods see might help probes too
                rows["joined"] = few + in_turn(few, 2 * len(few), seed, task.join)
            probes = []
            for name, seen in rows.items():
                found = model.probe(_spaced(seen))
                probes.append(replace(found, method=f"probe:{name}" if name else "probe"))
                features, truths = encoder_states(encoder, words, seen), [row["label"] for row in seen]
                name = "minilm_joined" if name else "minilm"
                probes.append(encoder_probe(name, states, features, task.labels, truths))
            for outcome in [*alike, *probes, classical(few, test, "few")]:
                yield kept(table.title, seed, outcome.method, outcome.right(truth))
    model.close()
    bar.close()


def best_rate(rows: Sequence[Row], table: str) -> float:
    """PEFT's rate that did best on the test rows of the draws that all rates had."""
    found = {m: draws for m, draws in collected(rows)[table].items() if m.startswith("peft_prompt_tuning:")}
    common = set.intersection(*(set(draws) for draws in found.values()))
    means = {method: np.mean([found[method][seed].mean() for seed in common]) for method in found}
    return float(max(means, key=means.get).partition(":")[2])


@dataclass(frozen=True)
class Table:
    """What one table holds.

    Args:
        task, shots: what is learned from how many rows per class.
        draws: of ours.
        controls: draws of PEFT's prompt tuning and the random source.
        swept: draws on which PEFT is trained at every rate; on the other controls at the best of them.
    """

    task: Task
    shots: int
    draws: int
    controls: int = 0
    swept: int = 0

    @property
    def title(self) -> str:
        """Its name in the results."""
        return f"{self.task.name}, {self.shots} per class"


def measure(report: Report, table: Table, data: Path, test_rows: int | None) -> None:
    """All trained cells of one table."""
    task = table.task
    train, test = read(task, "train", data), judged(task, data)[:test_rows]
    truth, steps = [row["label"] for row in test], task.steps[table.shots]

    def cell(seed: int, name: str, method: Callable[..., Outcome], *more: Any) -> None:
        def rows() -> list[Row]:
            outcome = method(task, draw(task, train, table.shots, seed), test, seed, steps, *more)
            return [kept(table.title, seed, outcome.method, outcome.right(truth))]

        report.cell(f"{table.title}, draw {seed}: {name}", rows)

    for seed in range(table.draws):
        cell(seed, "ours", ours)
    for seed in range(table.controls):
        for rate in RATES if seed < table.swept else [best_rate(report.rows, table.title)]:
            cell(seed, f"PEFT {rate:g}", peft, rate)
        cell(seed, "random source", ours, seed)


# The order in which they are measured; a table that comes again goes on where it was.
TABLES = (
    Table(SST2, 16, draws=5, controls=3, swept=1),
    Table(TREC, 16, draws=3, controls=1, swept=1),
    *(Table(task, shots, draws=3) for shots in (4, 64) for task in (SST2, TREC)),
    Table(TREC, 16, draws=5, controls=3, swept=1),
    Table(SST2, 16, draws=5, controls=5, swept=1),
)
CURVE = tuple(Table(task, shots, draws=3) for shots in (16, 4, 64) for task in (MPQA, MR, AG_NEWS))
QUICK = (
    Table(replace(SST2, steps={4: 1}), 4, draws=2, controls=2, swept=1),
    Table(replace(TREC, steps={4: 1}), 4, draws=1),
)


# What is told --------------------------------------------------------------------------------------------------------


def summary(cells: Sequence[Row]) -> list[Row]:
    """Means, and gains of ours with their intervals; of PEFT's rates the best one stands for the method."""
    rows = []
    for table, right in collected(cells).items():
        if "ours" not in right:
            continue
        if any(method.startswith("peft_prompt_tuning:") for method in right):
            best = f"peft_prompt_tuning:{best_rate(cells, table):g}"
            right["peft_prompt_tuning"] = right[best]
        rows += [*accuracies(table, right), *gains(table, right)]
    return rows


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--quick", action="store_true", help="one draw, a few test rows (a trial, no evidence)")
    parser.add_argument("--curve", action="store_true", help="MPQA, MR and AG News, as few_shot_curve")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    for name in ("smollm2-135m", "minilm-l6"):
        fetch_models.fetch(name)
    tables, test_rows = (QUICK, 16) if options.quick else (CURVE if options.curve else TABLES, None)
    settings = {
        "base": "smollm2-135m, float32",
        "threads": 1,
        "batch": BATCH,
        "rate": "0.07 embedding RMS",
        "peft_rates": RATES,
        "test_rows": test_rows or "all",
        "tasks": {t.task.name: asdict(t.task) for t in tables},
        "tables": [
            f"{t.title}: {t.draws} draws, {t.controls} of the controls, {t.swept} at every rate" for t in tables
        ],
    }
    folder = SCRATCH if options.quick else RESULTS
    seeds, command = list(range(max(t.draws for t in tables))), "python scripts/benchmarks/few_shot.py"
    name, command = ("few_shot_curve", f"{command} --curve") if options.curve else ("few_shot", command)
    report = Report(name, ABOUT, settings, seeds, folder, options.fresh, command)
    for table in () if options.finish else tables:
        task = table.task
        mine = list({t.title: t for t in tables if t.task.name == task.name}.values())
        report.cell(f"{task.name}: untaught", lambda t=task, m=mine: untaught(t, m, options.data, test_rows))
        measure(report, table, options.data, test_rows)
    rows = summary(report.rows)
    report.publish(rows)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
