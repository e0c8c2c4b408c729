#!/usr/bin/env python3
"""An instruction of more than forty tokens taught to eight slots, without labels, for four tasks of SmolLM2-135M.

The teacher is the frozen model with the instruction as text, the student the same model with eight vectors in its
place. Taught on unlabelled training texts; judged on test texts: how often both would say the same next token at the
answer (of 49,152), how many answers are right as label words, positions saved, and how long a row takes.

    python scripts/fetch_models.py smollm2-135m
    python scripts/benchmarks/distill.py             # a good hour on one free core; saves after every cell

A prototype agreed on 89.6 % after 80 steps, so 120 are taken, without further choice. Instructions were chosen by what
they do for the teacher alone on 100 training texts (`--develop 0`, which writes nothing), no student among them: for
TREC one by examples, since two that only list the kinds of answers made the model worse. For AG News none was found
that helps, neither lists nor examples: it stands last, for what is taught where the instruction itself says little.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks.few_shot_tasks import DATA, Rows
from benchmarks.few_shot_tasks import read as read_rows
from benchmarks.intervals import bootstrap
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.side_by_side import Progress
from torch import Tensor

import hf_reprogram as hr


ABOUT = (
    "Frozen SmolLM2-135M-Instruct: an instruction taught to 8 slots without labels. Agreement: the same likeliest "
    "next token, of 49,152, at the answer. Accuracy: of the likeliest label word, in percent of the test rows."
)
SLOTS, STEPS, BATCH, SEEDS, TEST = 8, 120, 4, 3, 200
SETTINGS = {"slots": SLOTS, "steps": STEPS, "batch": BATCH, "rate": "0.07 embedding RMS", "dtype": "float32"}
AGREEMENT, SHARE = 90.0, 95.0  # the bars


@dataclass(frozen=True)
class Task:
    """One instruction and its task.

    Args:
        name: of its folder in shared/data.
        test: the split that is judged.
        instruction: as the teacher reads it, before the text.
        suffix: after the text; the label word follows.
        words: by label of the data, in the order of its classes.
        longest, shortest: words that are kept of a text, and that it has at least.
    """

    name: str
    test: str
    instruction: str
    suffix: str
    words: dict[str, list[str]]
    longest: int = 16
    shortest: int = 3

    def template(self, place: str) -> str:
        """The row with `place` where the instruction stands."""
        return f"{place} {{text}}{self.suffix}{{answer}}"


TASKS = (
    Task(
        "sst2",
        "validation",
        "Classify the sentiment of the following movie review. Answer with exactly one word, either positive or "
        "negative, in lower case, and do not give any explanation, any score or any other text.\nReview:",
        "\nSentiment:",
        {"negative": [" negative"], "positive": [" positive"]},
    ),
    Task(
        "mpqa",
        "test",
        "Classify the sentiment of the following phrase from a newspaper. Answer with exactly one word, either "
        "positive or negative, in lower case, and do not give any explanation, any score or any other text.\nPhrase:",
        "\nSentiment:",
        {"negative": [" negative"], "positive": [" positive"]},
        shortest=2,
    ),
    Task(
        "trec",
        "test",
        "Decide what each question asks for: person, place, number, thing or description.\n"
        "Question: Who wrote Hamlet ?\nAnswer type: person\n"
        "Question: What city is the capital of Japan ?\nAnswer type: place\n"
        "Question: How many legs does a spider have ?\nAnswer type: number\n"
        "Question: What is an atom ?\nAnswer type: description\n"
        "Question: What color is the sky ?\nAnswer type: thing\nQuestion:",
        "\nAnswer type:",
        {
            "abbreviation": [" abbreviation"],
            "entity": [" thing"],
            "description": [" description"],
            "human": [" person"],
            "location": [" place"],
            "number": [" number"],
        },
    ),
    Task(
        "ag_news_10k",
        "test",
        "Read the beginning of the following news article and decide in which section of a newspaper it stood. Answer "
        "with exactly one word, either world, sports, business or technology, and do not write any summary, any "
        "comment or any other text.\nArticle:",
        "\nSection:",
        {"World": [" world"], "Sports": [" sports"], "Business": [" business"], "Sci/Tech": [" technology"]},
    ),
)


@functools.cache
def smollm2() -> tuple[Any, Any]:
    """The frozen model in float32, and its tokenizer."""
    return demo.load_base()


def texts(task: Task, split: str, count: int, seed: int, data: Path) -> Rows:
    """`count` rows of a split after a shuffle, each cut to its first words."""
    rows = [row for row in read_rows(task, split, data) if len(row["text"].split()) >= task.shortest]
    random.Random(seed).shuffle(rows)
    return [{**row, "text": " ".join(row["text"].split()[: task.longest])} for row in rows[:count]]


def model_of(task: Task, program: Any) -> hr.ReprogramModel:
    """The frozen model with a program, read as the task's label words."""
    base, tokenizer = smollm2()
    config = hr.ReprogramConfig(program=program, mapping=hr.VerbalizerConfig(words=task.words))
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


def teacher_of(task: Task) -> hr.ReprogramModel:
    """The instruction as text."""
    return model_of(task, hr.NoneConfig(template=task.template(task.instruction)))


def student_of(task: Task) -> hr.ReprogramModel:
    """Eight slots in its place."""
    return model_of(task, hr.PromptConfig(template=task.template(f"{{instruction:{SLOTS}}}")))


@dataclass(frozen=True)
class Answers:
    """What a model says of some rows: the likeliest token of all, (rows,), and the likeliest label, (rows,)."""

    tokens: Tensor
    labels: list[str]

    def right(self, rows: Rows) -> np.ndarray:
        """(rows,) 1.0 where the label is right."""
        return np.array([float(row["label"] == label) for row, label in zip(rows, self.labels, strict=True)])

    def same(self, other: Answers) -> np.ndarray:
        """(rows,) 1.0 where both would say the same token."""
        return (self.tokens == other.tokens).float().numpy()


def answers(model: hr.ReprogramModel, rows: Rows, name: str, size: int = 16) -> Answers:
    """One pass over the rows, like lengths together: all logits at the answer, of which label words are some."""
    collator, order = model.collator(), sorted(range(len(rows)), key=lambda i: -len(rows[i]["text"]))
    tokens, labels, bar = torch.zeros(len(rows), dtype=torch.long), [""] * len(rows), Progress(name, len(rows))
    ids = torch.tensor(model.active_mapping().reading().ids)
    words = [label for label, listed in model.peft_config["default"].mapping.words.items() for _ in listed]
    try:
        for start in range(0, len(order), size):
            index = order[start : start + size]
            columns = collator([{"text": rows[i]["text"]} for i in index])
            logits = model.reprogrammed.readout(columns, hr.Reading("rows"))  # (size, vocabulary)
            tokens[index] = logits.argmax(1)
            for i, best in zip(index, logits[:, ids].argmax(1).tolist(), strict=True):
                labels[i] = words[best]
            bar.tell(len(index))
    finally:
        bar.close()
    return Answers(tokens, labels)


def tokens_of(task: Task) -> int:
    """Tokens of the instruction."""
    return len(smollm2()[1](task.instruction, add_special_tokens=False)["input_ids"])


# Cells ---------------------------------------------------------------------------------------------------------------


class Judge:
    """A task's test rows with what the teacher and the model without any instruction say of them, asked once."""

    def __init__(self, task: Task, data: Path, count: int) -> None:
        self.task, self.rows = task, texts(task, task.test, count, 0, data)

    @functools.cached_property
    def teacher(self) -> Answers:
        """What the instruction as text makes the model say."""
        return self._asked(teacher_of(self.task), "teacher")

    @functools.cached_property
    def untold(self) -> Answers:
        """What it says without."""
        template = self.task.template("").strip()
        return self._asked(model_of(self.task, hr.NoneConfig(template=template)), "no instruction")

    def _asked(self, model: hr.ReprogramModel, name: str) -> Answers:
        try:
            return answers(model, self.rows, name)
        finally:
            model.unload()

    def row(self, seed: int | None, method: str, said: Answers) -> list[Row]:
        """Agreement and accuracy of one model, with its marks in the note for `summary`."""
        name = self.task.name if seed is None else f"{self.task.name}, seed {seed}"
        found = {"agreement_last": said.same(self.teacher), "accuracy": said.right(self.rows)}
        return [
            Row(name, method, metric, 100 * float(marks.mean()), n=len(marks), note="".join(f"{m:.0f}" for m in marks))
            for metric, marks in found.items()
        ]


def untaught(judge: Judge) -> list[Row]:
    """Everything that is not taught."""
    student = student_of(judge.task)
    student.add_adapter(
        "begun",
        hr.ReprogramConfig(
            program=hr.PromptConfig(
                template=judge.task.template(f"{{instruction:{SLOTS}}}"), init_text=judge.task.instruction
            ),
            mapping=hr.VerbalizerConfig(words=judge.task.words),
        ),
    )
    student.set_adapter("begun")
    try:
        begun = answers(student, judge.rows, "start")
    finally:
        student.unload()
    return [
        *judge.row(None, "instruction", judge.teacher),
        *judge.row(None, "no_instruction", judge.untold),
        *judge.row(None, "start", begun),
    ]


def taught(judge: Judge, seed: int, steps: int, batch: int, data: Path) -> list[Row]:
    """One student: what it learned, on held-out training texts (all positions) and on test texts (the answer)."""
    task = judge.task
    train = texts(task, "train", steps * batch + 24, seed, data)
    model = student_of(task)
    try:
        found = model.distill(
            task.instruction, train[24:], steps=steps, batch_size=batch, held_out=train[:24], seed=seed
        )
        said = answers(model, judge.rows, "student")
    finally:
        model.unload()
    name, note = f"{task.name}, seed {seed}", "24 training texts that taught nothing"
    return [
        *judge.row(seed, "ours", said),
        Row(name, "ours", "kl", found["kl"], n=24, note=note),
        Row(name, "ours", "kl_at_start", found["kl_at_start"], n=24, note=note),
        Row(name, "ours", "agreement", 100 * found["agreement"], n=24, note=note),
    ]


def latency(task: Task, data: Path, rounds: int = 5) -> list[Row]:
    """Milliseconds per row of `score`, 16 rows a batch, teacher and student by turns; and the positions."""
    rows = [{"text": row["text"]} for row in texts(task, "train", 16, 9, data)]
    seconds: dict[str, list[float]] = {"instruction": [], "ours": []}
    for _ in range(rounds + 1):  # the first one warms up
        for method, make in {"instruction": teacher_of, "ours": student_of}.items():
            model = make(task)
            start = time.perf_counter()
            model.score(rows, progress=False)
            seconds[method].append(time.perf_counter() - start)
            model.unload()
    made = [
        Row(task.name, method, "ms_per_row", 1000 * statistics.median(s[1:]) / len(rows), n=rounds, note="median")
        for method, s in seconds.items()
    ]
    ratio = statistics.median(o / t for o, t in zip(seconds["ours"][1:], seconds["instruction"][1:], strict=True))
    saved = tokens_of(task) - SLOTS
    return [
        *made,
        Row(task.name, "ours", "time_of_instruction", ratio, n=rounds, note="ms_per_row of ours / of the instruction"),
        Row(task.name, "ours", "positions_saved", saved, note=f"{tokens_of(task)} tokens in {SLOTS} slots"),
    ]


# What is told --------------------------------------------------------------------------------------------------------


def summary(cells: Sequence[Row]) -> list[Row]:
    """Means over seeds with the worst and the best, and whether the bars are met."""
    rows: list[Row] = []
    for task in dict.fromkeys(row.task.partition(",")[0] for row in cells):
        mine = [row for row in cells if row.task.partition(",")[0] == task]
        alone = [row for row in mine if row.task == task]
        seeds = [row for row in mine if row.task != task]
        for row in alone:
            marks = row.metric in ("accuracy", "agreement_last")
            rows.append(Row(task, row.method, row.metric, row.value, n=row.n, note="" if marks else row.note))
        told = next((row for row in alone if (row.method, row.metric) == ("instruction", "accuracy")), None)
        for metric in dict.fromkeys(row.metric for row in seeds):
            values = [row.value for row in seeds if row.metric == metric]
            note = f"seeds {', '.join(f'{v:.3g}' for v in values)}"
            mean = float(np.mean(values))
            if metric == "agreement_last":
                note += f"; bar >= {AGREEMENT:g}: {'met' if mean >= AGREEMENT else 'NOT met'}"
            rows.append(Row(task, "ours", metric, mean, min(values), max(values), len(values), note))
            if metric == "accuracy" and told is not None:
                share = 100 * mean / told.value
                note = f"accuracy of ours / of the instruction; bar >= {SHARE:g}: "
                note += "met" if share >= SHARE else "NOT met"
                rows.append(Row(task, "ours", "accuracy_share", share, n=len(values), note=note))
                ours = np.stack([_marks(row) for row in seeds if row.metric == "accuracy"])
                gain = bootstrap(ours - _marks(told))
                note = "95 % paired bootstrap over seeds and test rows"
                rows.append(Row(task, "ours", "accuracy_gain_over:instruction", *gain, len(values), note))
    return rows


def _marks(row: Row) -> np.ndarray:
    return np.array([float(mark) for mark in row.note])


def develop(steps: int, batch: int, data: Path, names: Sequence[str]) -> None:
    """On training texts: the instruction's accuracy, and what is learned in so many steps."""
    for task in (task for task in TASKS if task.name in names):
        judge = Judge(task, data, 0)
        judge.rows = texts(task, "train", 4000, 99, data)[-100:]  # those taught come in another order
        start = time.perf_counter()
        rows = [*judge.row(None, "instruction", judge.teacher), *judge.row(None, "no_instruction", judge.untold)]
        if steps:
            rows += taught(judge, 7, steps, batch, data)
        shown = ", ".join(f"{row.method} {row.metric} {row.value:.3g}" for row in rows)
        print(f"{task.name}: {tokens_of(task)} tokens; {shown}; {time.perf_counter() - start:.0f} s", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with sst2/, mpqa/, trec/ and ag_news_10k/")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, a few rows (a trial, no evidence)")
    parser.add_argument("--develop", type=int, metavar="STEPS", help="measure on training texts, write nothing")
    parser.add_argument("--batch", type=int, default=BATCH, help="with --develop")
    parser.add_argument("--tasks", default=",".join(task.name for task in TASKS), help="with --develop")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    fetch_models.fetch("smollm2-135m")
    if options.develop is not None:
        develop(options.develop, options.batch, options.data, options.tasks.split(","))
        return 0
    steps, seeds, count = (2, 1, 16) if options.quick else (STEPS, SEEDS, TEST)
    settings = {**SETTINGS, "test_rows": count, "tasks": {task.name: asdict(task) for task in TASKS}}
    folder = SCRATCH if options.quick else RESULTS
    command = "python scripts/benchmarks/distill.py"
    report = Report("distill", ABOUT, settings, list(range(seeds)), folder, options.fresh, command)
    if not options.finish:
        judges = [Judge(task, options.data, count) for task in TASKS]
        for judge in judges:
            name = judge.task.name
            report.cell(f"{name}: untaught", lambda j=judge: untaught(j))
            for seed in range(seeds):
                report.cell(f"{name}, seed {seed}", lambda j=judge, s=seed: taught(j, s, steps, BATCH, options.data))
            report.cell(f"{name}: latency", lambda j=judge: latency(j.task, options.data))
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
