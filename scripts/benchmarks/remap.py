#!/usr/bin/env python3
"""Vocabulary remap: a small sentiment classifier reads names, questions and DNA by other words of its own.

The victim is made here: two layers of MiniLM with a classifier head, tuned on 6,000 SST-2 phrases, kept in the
cache and frozen from then on. `vocabulary` turns target symbols (letters of names18, words of TREC, bases of
dna_splice) into tokens of its, and a linear map reads them as 18, 6 and 3 labels: two class scores cannot hold 18
labels, so the map reads the mean state (what an embedding service gives), and once, for the record, the two scores.
The program is trained through the victim (`ours`), or by its answers alone (`ours:score_only`). Both begin as symbols
that read as themselves under a fitted map (`map_only`): what that row has, the program does not owe to its training.
The map is fitted anew after every epoch; the best state on validation rows is judged, the untrained one among them.
Rate (0.1) and start (`keep` 0.99) were found on validation rows of names18 and dna_splice in another draw, and hold
for all.

    python scripts/fetch_models.py minilm-l6
    python scripts/benchmarks/remap.py          # an hour on one free core; saves after every cell, resumes
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks.baselines import majority
from benchmarks.few_shot_tasks import SST2
from benchmarks.few_shot_tasks import read as read_few
from benchmarks.intervals import accuracies, collected, gains, kept
from benchmarks.remap_tasks import DATA, TASKS, Rows, Task, classical, draw, read
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_reprogram as hr
from hf_reprogram.tools.random_source import random_source
from hf_reprogram.training.sampling import LengthBuckets


ABOUT = "A frozen SST-2 classifier under `vocabulary`; 800 rows to learn from; accuracy on test rows in percent."
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)  # C of the map, chosen on validation rows
SHARE, GAP = 80, 1.0  # bars: percent of the probe's gain over majority; points between mixture and likeliest token


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        rows: to learn from, to choose on, to judge.
        seeds: draws of the rows to learn from, and of everything else that is drawn.
        epochs: through the victim.
        score_epochs, samples: by its answers alone; draws of tokens per row.
        layers, phrases: of the victim.
        data: folder of the sets.
    """

    rows: tuple[int, int, int] = (800, 200, 400)
    seeds: int = 3
    epochs: int = 4
    score_epochs: int = 2
    samples: int = 4
    layers: int = 2
    phrases: int = 6000
    data: Path = DATA


# The victim ----------------------------------------------------------------------------------------------------------


def victim(plan: Plan) -> tuple[Any, Any]:
    """(classifier, tokenizer), tuned on the first call and taken from the cache from then on."""
    folder = fetch_models.cache_dir() / f"sst2-minilm-{plan.layers}-{plan.phrases}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _tune(plan, Path(made) / "victim")
            (Path(made) / "victim").rename(folder)  # whole or not at all
    base = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    return base.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _tune(plan: Plan, folder: Path) -> None:
    """One epoch over phrases of at least four words: all weights but the embeddings, at 5e-4 after a rise, falling."""
    source = fetch_models.asset_path("minilm-l6")
    torch.manual_seed(0)  # of the head
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2, num_hidden_layers=plan.layers)
    base.get_input_embeddings().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows = [row for row in read_few(SST2, "train", plan.data) if len(row["text"].split()) >= 4]
    rows = random.Random(0).sample(rows, plan.phrases)
    size, losses = 32, []
    order = list(LengthBuckets([len(row["text"]) for row in rows], size, 0, lambda: 0))
    optimizer = torch.optim.Adam(base.parameters(), lr=5e-4)
    base.train()
    for start in range(0, len(order), size):
        part = [rows[i] for i in order[start : start + size]]
        columns = tokenizer([row["text"] for row in part], padding=True, truncation=True, return_tensors="pt")
        labels = torch.tensor([SST2.labels.index(row["label"]) for row in part])
        done = start / len(order)
        optimizer.param_groups[0]["lr"] = 5e-4 * min(10 * done + 0.01, 1 - done)
        optimizer.zero_grad()
        loss = base(**columns, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 25 == 0:
            print(f"victim: loss {sum(losses[-25:]) / 25:.3f} after {start + size} phrases", flush=True)
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sentiment(plan: Plan) -> Iterator[Row]:
    """How well the victim does what it was made for."""
    base, tokenizer = victim(plan)
    config = hr.ReprogramConfig(mapping=_first_classes(), labels=SST2.labels)
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    rows = read_few(SST2, "validation", plan.data)[: plan.rows[2] * 2]
    yield Row("sst2, the victim's own task", "full_fine_tuning", "accuracy", 100 * model.evaluate(rows)["accuracy"],
              n=len(rows))  # fmt: skip


def _first_classes() -> hr.MappingOptions:
    return hr.LabelsConfig(on="classes", method="blocks", per_label=1, centred=False)


# One draw of one task ------------------------------------------------------------------------------------------------


@dataclass
class Taught:
    """A model on a draw, and the best state that it had on the validation rows, the untrained one among them."""

    model: hr.ReprogramModel
    train: Rows
    validation: Rows
    best: float = -1.0
    note: str = ""
    state: dict[str, Any] | None = None

    def judge(self, epoch: int) -> None:
        """Keep the present state where it is better than all before."""
        found = self.model.evaluate(self.validation, progress=False)["accuracy"]
        if found > self.best:
            state = self.model.base_model.state("default")
            self.state = {key: tensor.clone() for key, tensor in state.items()}
            self.best, self.note = found, f"epoch {epoch}; validation {100 * found:.1f}"

    def refit(self, epoch: int) -> None:
        """The map once more, of what the present program gives: tokens that change leave it behind."""
        self.judge(epoch)
        self.model.fit_mapping(self.train)
        self.judge(epoch)

    def right(self, test: Rows, mode: str = "hard") -> list[bool]:
        """Which test rows are right, read as the likeliest token or as the mixture."""
        for key, tensor in self.model.base_model.state("default").items():
            tensor.data.copy_(self.state[key])
        program = self.model.active_programs()[0]
        if program.options.type == "vocabulary":
            program.options.eval_mode = mode
        found = self.model.predict(test, progress=False)
        return [guess["label"] == row["label"] for guess, row in zip(found, test, strict=True)]


def begin(base: Any, tokenizer: Any, task: Task, split: Sequence[Rows], seed: int, on: str, **options: Any) -> Taught:
    """A fresh program under a map fitted to its start, the map's penalty chosen on the validation rows.

    Args:
        split: rows to learn from and to choose on.
        on: what the map reads: `state` or `classes`.
        options: of the program; none is no program at all, the probe.
    """
    train, validation = split
    reads = {"on": on} | ({"pool": "mean"} if on == "state" else {})
    config = hr.ReprogramConfig(
        program=hr.VocabularyConfig(**options) if options else None,
        mapping=hr.LinearConfig(solver="gradient", start="logistic", **reads),
        labels=task.labels,
    )
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer, seed=seed)
    taught, mapping = Taught(model, train, validation), model.active_mapping()
    for parameter in model.active_programs()[0].parameters():
        parameter.requires_grad_(False)  # the map is fitted for five penalties on one reading of the rows
    frozen = {"train": model.frozen_rows(train), "validation": model.frozen_rows(validation)}
    scores = {}
    for penalty in PENALTIES:
        mapping.options.inverse_penalty = penalty
        model.fit_mapping(frozen["train"])
        with torch.no_grad():
            guesses = model(readout=frozen["validation"].values).logits.argmax(1)
        scores[penalty] = float((guesses == frozen["validation"].labels).float().mean())
    mapping.options.inverse_penalty = max(scores, key=scores.get)
    model.fit_mapping(frozen["train"])
    for parameter in model.active_programs()[0].parameters():
        parameter.requires_grad_(True)
    taught.judge(0)
    return taught


def through(taught: Taught, epochs: int, seed: int, size: int = 16) -> None:
    """Train program and map through the victim, rates falling to 0."""
    model = taught.model
    collator = model.collator()
    made = collator.lay_out(taught.train)
    parts = {"program.0": model.active_programs()[0], "mapping": model.active_mapping()}
    rates = model.learning_rates()
    groups = [{"params": [*part.parameters()], "lr": rates[name]} for name, part in parts.items()]
    optimizer, steps = torch.optim.Adam(groups), epochs * -(-len(made) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    torch.manual_seed(seed)
    for epoch in range(epochs):
        order = list(LengthBuckets([len(row) for row in made], size, 1000 * seed, lambda e=epoch: e))
        model.train()
        for start in range(0, len(order), size):
            optimizer.zero_grad()
            model(**collator.stack([made[i] for i in order[start : start + size]])).loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        taught.refit(epoch + 1)


def white(plan: Plan, task: Task, seed: int, name: str, on: str = "state", source: int | None = None) -> Iterator[Row]:
    """The program before and after training through the victim, or through one of random weights."""
    base, tokenizer = victim(plan)
    base = base if source is None else random_source(base, source)
    train, validation, test = rows(plan, task, seed)
    steps = plan.epochs * -(-len(train) // 16)
    options = task.program(train) | {"anneal_steps": steps}
    taught = begin(base, tokenizer, task, (train, validation), seed, on, **options)
    alone = "map_only" if source is None else "random_source:map_only"
    yield kept(task.name, seed, alone + name, taught.right(test), taught.note)
    through(taught, plan.epochs, seed)
    ours = "ours" if source is None else "random_source"
    yield kept(task.name, seed, ours + name, taught.right(test), taught.note)
    if source is None:
        soft = f"ours{name}_soft" if name else "ours:soft"
        yield kept(task.name, seed, soft, taught.right(test, "soft"), taught.note)


def scored(plan: Plan, task: Task, seed: int) -> Iterator[Row]:
    """The same by the victim's answers alone; the map, behind the answers, learns by its own gradient."""
    base, tokenizer = victim(plan)
    train, validation, test = rows(plan, task, seed)
    options = task.program(train) | {"candidates": task.few_candidates}
    taught = begin(base, tokenizer, task, (train, validation), seed, "state", **options)
    for epoch in range(plan.score_epochs):
        hr.fit_by_score(taught.model, train, samples=plan.samples, seed=1000 * seed + epoch, progress=False)
        taught.refit(epoch + 1)
    yield kept(task.name, seed, "ours:score_only", taught.right(test), taught.note)
    yield kept(task.name, seed, "ours:score_only_soft", taught.right(test, "soft"), taught.note)


def simple(plan: Plan, task: Task, seed: int) -> Iterator[Row]:
    """The victim's frozen features of the texts as they are, and models without it."""
    train, validation, test = rows(plan, task, seed)
    truth = [row["label"] for row in test]
    yield kept(task.name, seed, "majority", majority(train, test).right(truth))
    for name, guesses in classical(task, train, validation, test).items():
        yield kept(task.name, seed, f"classical:{name}", [a == b for a, b in zip(guesses, truth, strict=True)])
    taught = begin(*victim(plan), task, (train, validation), seed, "state")
    yield kept(task.name, seed, "probe", taught.right(test), taught.note)


def rows(plan: Plan, task: Task, seed: int) -> tuple[Rows, Rows, Rows]:
    """What is learned from, chosen on and judged."""
    train, validation = draw(read(task, "train", plan.data), plan.rows[:2], seed)
    test = read(task, "test", plan.data)
    random.Random(0).shuffle(test)
    unseen = test[task.seen :] or test  # of a trial's few rows all
    return train, validation, unseen[: plan.rows[2]]


def cells(plan: Plan) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    """All cells, the wanted ones first."""
    yield "the victim", lambda: sentiment(plan)
    for seed in range(plan.seeds):
        for task in TASKS:
            where = f"{task.name}, draw {seed}"
            yield f"{where}: simple", lambda t=task, s=seed: simple(plan, t, s)
            yield f"{where}: through the victim", lambda t=task, s=seed: white(plan, t, s, "")
            yield f"{where}: by its answers", lambda t=task, s=seed: scored(plan, t, s)
    for task in TASKS:
        for seed in range(plan.seeds):
            where = f"{task.name}, draw {seed}"
            yield f"{where}: random weights", lambda t=task, s=seed: white(plan, t, s, "", source=s)
    for task in TASKS:
        yield f"{task.name}, draw 0: two scores", lambda t=task: white(plan, t, 0, ":two_scores", "classes")


# What is told --------------------------------------------------------------------------------------------------------


def summary(found: Sequence[Row]) -> list[Row]:
    """Accuracies, what ours gains over each control, its share of the probe's gain, and mixture against token."""
    told = [row for row in found if row.method == "full_fine_tuning"]
    for task, right in collected(row for row in found if row.method != "full_fine_tuning").items():
        told += accuracies(task, right)
        for ours in (m for m in ("ours", "ours:score_only") if m in right):
            others = {m: v for m, v in right.items() if not m.startswith("ours") or m == ours}
            told += gains(task, others, ours)
            told += [row for row in (share(task, right, ours), gap(task, right, ours)) if row is not None]
    return told


def share(task: str, right: Any, ours: str) -> Row | None:
    """Percent of the probe's gain over the commonest label, in the mean of the draws; low and high are draws."""
    draws = sorted(set(right[ours]) & set(right.get("probe", {})) & set(right.get("majority", {})))
    if not draws:
        return None
    marks = {m: np.array([100 * right[m][d].mean() for d in draws]) for m in (ours, "probe", "majority")}
    over, least = marks[ours] - marks["majority"], marks["probe"] - marks["majority"]
    value = float(100 * over.mean() / least.mean())
    each = 100 * over / least
    note = f"bar >= {SHARE}: {'met' if value >= SHARE else 'NOT met'}"
    return Row(task, ours, "share_of_gain:probe", value, float(each.min()), float(each.max()), len(draws), note)


def gap(task: str, right: Any, ours: str) -> Row | None:
    """Points between the mixture of tokens and the likeliest one, in the mean of the draws."""
    soft = right.get({"ours": "ours:soft"}.get(ours, f"{ours}_soft"), {})
    draws = sorted(set(right[ours]) & set(soft))
    if not draws:
        return None
    each = [100 * float(soft[d].mean() - right[ours][d].mean()) for d in draws]
    value = float(np.mean(each))
    note = f"bar within {GAP:g}: {'met' if abs(value) <= GAP else 'NOT met'}"
    return Row(task, ours, "accuracy_gap:soft", value, min(each), max(each), len(draws), note)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--quick", action="store_true", help="a few rows of one draw (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    fetch_models.fetch("minilm-l6")
    plan = Plan(data=options.data)
    if options.quick:
        plan = replace(plan, rows=(64, 32, 32), seeds=1, epochs=1, score_epochs=1, samples=2, layers=1, phrases=64)
    settings = {k: v for k, v in vars(plan).items() if k != "data"} | {"batch": 16, "C": PENALTIES}
    settings["tasks"] = {task.name: task.told for task in TASKS}
    folder = SCRATCH if options.quick else RESULTS
    report = Report("remap", ABOUT, settings, list(range(plan.seeds)), folder, options.fresh)
    report.command = "python scripts/benchmarks/remap.py"
    for key, measure in () if options.finish else cells(plan):
        report.cell(key, measure)
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
