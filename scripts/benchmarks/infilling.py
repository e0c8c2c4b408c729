#!/usr/bin/env python3
"""The third loop of an antibody's heavy chain, masked and filled in by a frozen model of something else.

The rows are in infilling_data.py. A logistic regression on the sites outside the loop shows how far they tell what it
holds. What is measured is a model of this library, not design of new antibodies.

Sources: rxn-albert and rxnfp, masked language models of chemical reactions, under `projection` and `tokens`, trained
together on masked loops; the same on random weights; AntiBERTy, which knows antibodies, as it is and under the same
programs. MiniLM has no head that could fill a mask. A source that is `cut` is loaded with its first 1, 2 or 4 layers:
each depth is trained, and the one of least loss on validation is judged. Rows are cropped to the residues around the
varied sites (the rest is the same everywhere), but for AntiBERTy as it is.

    python scripts/fetch_models.py antiberty rxnfp-bert
    python scripts/benchmarks/infilling.py              # saves after every run, goes on where it was stopped
    python scripts/benchmarks/infilling.py --only rxn-albert-cut
    python scripts/benchmarks/infilling.py --quick      # a trial of the whole way; no evidence
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks.infilling_data import CROP, RESIDUES, VARIED, Drawn, Rows, loop, masked, read
from benchmarks.intervals import bootstrap
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForMaskedLM, AutoTokenizer, PrinterCallback, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.metrics import diversity
from hf_reprogram.tools.random_source import random_source


ABOUT = (
    "Frozen masked language models fill in the third heavy-chain loop of antibodies of one library; share of residues "
    "that are the test row's own, in percent, over the loop's eight and over the three that the library varies."
)
TASKS = {"whole loop": tuple(range(8)), "varied residues": VARIED}
FREQUENCY, LOGISTIC = "classical:position frequency", "classical:logistic regression"
SOURCES = ("antiberty", "rxn-albert", "rxnfp-bert")
CUT, DEPTHS = "-cut", (1, 2, 4)  # the mark of a source's first layers, and how many
TRIED = "validation loss at rate "
BAR = 1e-5  # folded against unfolded logits


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    epochs: int = 12  # after four the loss on validation still fell
    seeds: int = 3
    rows: int | None = None  # of each split; None for all
    sources: tuple[str, ...] = SOURCES
    rates: tuple[float, ...] = (0.02, 0.06, 0.2)  # of which the one of the least validation loss is taken
    tried: int = 1000  # rows of train on which each is tried, for one epoch
    rate: float = 0.06
    batch: int = 32
    samples: int = 10  # of each of so many test rows as follow
    sampled: int = 100


# What is compared ----------------------------------------------------------------------------------------------------


def kept(method: str, seed: int, said: Sequence[str], texts: Rows, note: str = "") -> Row:
    """A method's loops in one seed, as a row of a cell: its note holds which residues are right."""
    right = [[a == b for a, b in zip(guess, loop(text), strict=True)] for guess, text in zip(said, texts, strict=True)]
    marks = ".".join("".join("1" if r else "0" for r in row) for row in right)
    return Row(
        f"draw {seed}", method, "recovery", 100 * float(np.mean(right)), n=len(texts), note=f"{marks} {note}".strip()
    )


def simple(plan: Plan) -> Iterator[Row]:
    """Baselines: the loop's commonest residue everywhere, the commonest at each place, a logistic regression of each
    place on all residues outside the loop."""
    train, test = read("train", plan.rows), read("test", plan.rows)
    commonest = Counter("".join(map(loop, train))).most_common(1)[0][0]
    yield kept("majority", 0, [commonest * 8] * len(test), test)
    columns = list(zip(*map(loop, train), strict=True))
    often = "".join(Counter(column).most_common(1)[0][0] for column in columns)
    yield kept(FREQUENCY, 0, [often] * len(test), test)
    yield kept(LOGISTIC, 0, _regressed(train, test, columns), test)


def _regressed(train: Rows, test: Rows, columns: Sequence[Sequence[str]]) -> list[str]:
    def features(texts: Rows) -> np.ndarray:
        outside = [[text[i] for span in CROP for i in range(*span) if not 96 <= i < 104] for text in texts]
        return np.array([[float(a == b) for a in row for b in RESIDUES] for row in outside])

    inputs, wanted = features(train), features(test)
    guessed = []
    for column in columns:
        if len(set(column)) == 1:
            guessed.append([column[0]] * len(test))
        else:
            guessed.append(LogisticRegression(C=1.0, max_iter=500).fit(inputs, column).predict(wanted).tolist())
    return ["".join(letters) for letters in zip(*guessed, strict=True)]


def source(name: str, depth: int | None = None) -> tuple[Any, Any]:
    """A frozen model, or its first layers, with its tokenizer."""
    name = name.removesuffix(CUT)
    folder = (
        fetch_models.SHARED / "models" / "rxn-albert-mlm" if name == "rxn-albert" else fetch_models.asset_path(name)
    )
    facts: dict[str, Any] = {"local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **facts)
    facts |= {"num_hidden_layers": depth} if depth else {}
    return AutoModelForMaskedLM.from_pretrained(folder, **facts), tokenizer


def depths(name: str) -> tuple[int | None, ...]:
    """How many of its layers a source is loaded with: all of them, or what is tried of one that is cut."""
    return DEPTHS if name.endswith(CUT) else (None,)


def untaught(plan: Plan) -> Iterator[Row]:
    """AntiBERTy as it is: its own logits of the residues, on whole sequences."""
    base, tokenizer = source("antiberty")
    config = hr.ReprogramConfig(mapping=hr.TokensConfig(symbols=RESIDUES))
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    test = read("test", plan.rows)
    yield kept(
        "zero_shot:antiberty", 0, _said(model, [masked(t, tokenizer.mask_token, crop=False) for t in test]), test
    )


def _said(model: hr.ReprogramModel, rows: Sequence[dict[str, str]]) -> list[str]:
    asked = [{"text": row["text"]} for row in rows]
    return [answer["text"] for answer in model.predict(asked, batch_size=64, progress=False)]


def arguments(folder: str, plan: Plan, seed: int) -> TrainingArguments:
    """Both parts at one rate, which falls to 0 as a cosine does; the epoch of the least loss on validation counts."""
    return TrainingArguments(
        folder,
        remove_unused_columns=False,
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch,
        per_device_eval_batch_size=64,
        learning_rate=plan.rate,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        seed=seed,
        bf16=True,  # steps take 0.6 of the time; what is judged is computed in float32
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=25,
        report_to=[],
        disable_tqdm=True,
    )


def _method(name: str, random_weights: bool) -> str:
    return f"random_source:{name}" if random_weights else f"ours:{name}"


def _made(name: str, depth: int | None, seed: int, random_weights: bool) -> tuple[hr.ReprogramModel, Any]:
    base, tokenizer = source(name, depth)
    base = random_source(base, seed) if random_weights else base
    program, mapping = hr.ProjectionConfig(symbols=RESIDUES), hr.TokensConfig(symbols=RESIDUES)
    config = hr.ReprogramConfig(program=program, mapping=mapping)
    return hr.get_reprogram_model(base, config, processing_class=tokenizer, seed=seed), tokenizer


def _trained(model: hr.ReprogramModel, plan: Plan, seed: int) -> list[float]:
    """Train; losses on the validation split, epoch by epoch."""
    mask = model.processing_class.mask_token
    validation = [masked(text, mask) for text in read("validation", plan.rows)]
    with tempfile.TemporaryDirectory() as folder:
        learned = Drawn(read("train", plan.rows), mask, seed)
        trainer = hr.make_trainer(model, arguments(folder, plan, seed), learned, validation)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        # Else everything after, the comparison of the folded form with it, would run in bfloat16 too.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]


def rates(plan: Plan, name: str, random_weights: bool) -> Iterator[Row]:
    """Validation losses of some rates after an epoch on a part of train; the test split is not looked at."""
    for depth, rate in product(depths(name), plan.rates):
        model, _ = _made(name, depth, 0, random_weights)
        loss = _trained(model, replace(plan, rate=rate, epochs=1, rows=plan.tried), 0)[-1]
        yield Row("validation", _method(name, random_weights), f"{_tried(depth)}{rate:g}", loss, n=plan.tried)
        model.unload()


def _tried(depth: int | None) -> str:
    return f"{depth} layer(s), {TRIED}" if depth else TRIED


def _best(
    plan: Plan, name: str, seed: int, random_weights: bool, rate: dict[int | None, float]
) -> tuple[hr.ReprogramModel, Any, str]:
    """The source, trained; of one that is cut the depth of least loss on validation. With it, how it was trained."""
    best, least = None, math.inf
    for depth in depths(name):
        model, tokenizer = _made(name, depth, seed, random_weights)
        losses = _trained(model, replace(plan, rate=rate[depth]), seed)
        note = f"rate {rate[depth]:g}, validation loss {', '.join(f'{loss:.3f}' for loss in losses)}"
        note = f"{depth} layer(s), {note}" if depth else note
        print(f"  {name} seed {seed}: {note}", flush=True)
        if best is None or min(losses) < least:
            best, least = (model, tokenizer, note), min(losses)
    return best


def run(plan: Plan, name: str, seed: int, random_weights: bool, rate: dict[int | None, float]) -> Iterator[Row]:
    """One source under projection and tokens, trained; its loops, its perplexity, its draws, its folded form.

    Args:
        rate: of every depth that is tried.
    """
    model, tokenizer, how = _best(plan, name, seed, random_weights, rate)
    test = read("test", plan.rows)
    rows, method, draw = [masked(t, tokenizer.mask_token) for t in test], _method(name, random_weights), f"draw {seed}"
    yield kept(method, seed, _said(model, rows), test, how)
    found = model.evaluate(rows, batch_size=64)
    yield Row(draw, method, "perplexity", found["perplexity"], n=len(test), note="of the test rows' own residues")
    mapping = model.peft_config["default"].mapping
    mapping.order = "once"
    yield kept(f"{method}, all at a time", seed, _said(model, rows), test)
    generator = torch.Generator().manual_seed(seed)
    asked = [{"text": row["text"]} for row in rows[: plan.sampled]]
    draws = model.sample(asked, plan.samples, generator=generator)
    spread = [diversity([answer["text"] for answer in each]) for each in draws]
    yield Row(draw, method, "diversity", 100 * float(np.mean(spread)), n=len(draws), note="pairs of different draws")
    mapping.order = "confident"
    yield Row(draw, method, "fold_difference", *_folded(model, rows[:64]))
    model.unload()


@torch.no_grad()
def _folded(model: hr.ReprogramModel, rows: Sequence[dict[str, str]]) -> tuple[float, None, None, int, str]:
    """The largest difference of logits, relative to the largest logit, and how many numbers are left."""
    columns = {k: v for k, v in model.collator()(rows).items() if k != "labels"}
    numbers = [sum(t.numel() for t in model.base_model.state("default").values())]
    before = model(**columns).logits
    model.fold()
    numbers.append(sum(t.numel() for t in model.base_model.state("default").values()))
    gap = float((model(**columns).logits - before).abs().max() / before.abs().max())
    note = f"{numbers[0]:,} numbers fold to {numbers[1]:,}; bar <= {BAR:g}: {'met' if gap <= BAR else 'NOT met'}"
    return gap, None, None, len(rows), note


# Summary -------------------------------------------------------------------------------------------------------------


def summary(found: Sequence[Row]) -> list[Row]:
    """Means over seeds of recovery, gains with their intervals over both baselines and the random source, the rest."""
    marks: dict[str, dict[int, np.ndarray]] = {}
    for row in found:
        if row.metric == "recovery":
            right = [[mark == "1" for mark in each] for each in row.note.split()[0].split(".")]
            marks.setdefault(row.method, {})[int(row.task.split()[1])] = np.array(right, dtype=float)  # (rows, 8)
    rows = []
    for task, places in TASKS.items():
        each = {m: {seed: right[:, places].mean(1) for seed, right in draws.items()} for m, draws in marks.items()}
        rows += sorted((_mean(task, m, draws) for m, draws in each.items()), key=lambda row: -row.value)
        rows += [row for method in each if method.startswith("ours:") for row in _gains(task, method, each)]
    return rows + _others(found)


def _mean(task: str, method: str, draws: dict[int, np.ndarray]) -> Row:
    values = [100 * right.mean() for _, right in sorted(draws.items())]
    note = "seeds " + ", ".join(f"{value:.1f}" for value in values)
    return Row(task, method, "recovery", float(np.mean(values)), min(values), max(values), len(values), note)


def _gains(task: str, ours: str, each: dict[str, dict[int, np.ndarray]]) -> Iterator[Row]:
    """What a method gains over the baselines, over itself on random weights, and over its loops at a time.

    The loss that is trained, and by which an epoch is chosen, is that of whole loops: all residues at a time.
    """
    others = [FREQUENCY, LOGISTIC, ours.replace("ours", "random_source"), f"{ours}, all at a time"]
    for other in (m for m in others if m in each):
        theirs = each[other]
        seeds = [s for s in sorted(each[ours]) if s in theirs or len(theirs) == 1]
        if not seeds:
            continue
        gap = np.stack([each[ours][s] - theirs.get(s, next(iter(theirs.values()))) for s in seeds])
        mean, low, high = bootstrap(gap)
        note = "95 % paired bootstrap over seeds and test rows"
        if other == FREQUENCY:
            note += f"; bar: above zero: {'met' if low > 0 else 'NOT met'}"
        yield Row(task, ours, f"recovery_gain_over:{other}", mean, low, high, len(seeds), note)


def _others(found: Sequence[Row]) -> Iterator[Row] | list[Row]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        if row.metric != "recovery":
            groups.setdefault((row.method, row.metric), []).append(row)
    made = []
    for (method, metric), rows in groups.items():
        values = [row.value for row in rows if row.value is not None and math.isfinite(row.value)]
        worst = max(rows, key=lambda row: row.value or 0)
        value = max(values) if metric == "fold_difference" else float(np.mean(values))
        task = rows[0].task if TRIED in metric else "the test rows"
        made.append(Row(task, method, metric, value, min(values), max(values), len(values), worst.note))
    return made


def cells(plan: Plan, report: Report) -> Iterator[tuple[str, Any]]:
    """Name and measurement of every cell; a rate is chosen before its source is trained."""
    yield "simple", lambda: simple(plan)
    if "antiberty" in plan.sources:
        yield "untaught", lambda: untaught(plan)
    for name in plan.sources:
        kinds = (False,) if name == "antiberty" else (False, True)
        for random_weights in kinds:
            yield f"rates {_method(name, random_weights)}", partial(rates, plan, name, random_weights)
        for seed, random_weights in product(range(plan.seeds), kinds):
            method = _method(name, random_weights)
            yield f"{method} {seed}", partial(_at_best_rate, plan, name, seed, random_weights, report)


def _at_best_rate(plan: Plan, name: str, seed: int, random_weights: bool, report: Report) -> Iterator[Row]:
    rows = [row for row in report.rows if row.method == _method(name, random_weights)]
    rate = {}
    for depth in depths(name):
        own = [row for row in rows if row.metric.startswith(_tried(depth))]
        rate[depth] = float(min(own, key=lambda row: row.value).metric.removeprefix(_tried(depth)))
    return run(plan, name, seed, random_weights, rate)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*SOURCES, *(f"{name}{CUT}" for name in SOURCES)], help="one source alone")
    parser.add_argument("--quick", action="store_true", help="a few rows, one seed (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    plan = Plan(sources=(options.only,)) if options.only else Plan()
    if options.quick:
        sources = plan.sources if options.only else SOURCES[:1]
        plan = Plan(epochs=1, seeds=1, rows=48, tried=48, rates=(0.06,), sampled=4, sources=sources)
    settings = {
        "plan": {k: v for k, v in vars(plan).items() if k != "rate"},
        "crop": CROP,
        "start": "tokens",
        "training": "bfloat16 autocast",
        "threads": 1,
    }
    folder, name, command = (
        SCRATCH if options.quick else RESULTS,
        "infilling",
        "python scripts/benchmarks/infilling.py",
    )
    if options.only:
        name, command = f"{name}_{options.only}", f"{command} --only {options.only}"
    report = Report(name, ABOUT, settings, list(range(plan.seeds)), folder, options.fresh, command)
    for key, measure in () if options.finish else cells(plan, report):
        report.cell(key, measure)
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
