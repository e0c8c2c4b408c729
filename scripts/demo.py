#!/usr/bin/env python3
"""Teach a frozen language model to judge product reviews from 32 labelled sentences, and show what that was worth.

SmolLM2-135M stays as it is; ten vectors in its input learn (5,760 numbers). Beside them, on the same test sentences,
stand the model untaught, calibrated, and with a linear probe; bag-of-words classifiers; and the same ten vectors on a
model of random weights. The program, a figure and the table are left in demo-output/.

    python scripts/fetch_models.py smollm2-135m vader-amazon
    python scripts/demo.py                                       # about five minutes on two idle cores

The recipe (template, words, rate, steps) was fixed beforehand; the test sentences choose nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before tokenizers is imported

import fetch_models
import torch
from benchmarks.baselines import (
    Outcome,
    Untaught,
    classical,
    folder_bytes,
    guesses,
    in_slices,
    majority,
)
from benchmarks.side_by_side import Job, JobFailed, Progress, Tell, side_by_side
from demo_report import draw, notes, shown, table, verdict
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

import hf_reprogram as hr
from hf_reprogram.tools.random_source import random_source


ROOT = Path(__file__).resolve().parents[1]
MODEL, DATA, LABELS = "smollm2-135m", "vader-amazon", list(fetch_models.LABELS)
TASK = "reviews"  # of the table, which the speech demo goes on with
SEED = 0
BATCH = 8

TEMPLATE = "{prompt:5} {text} {prompt:5} It was{answer}"
UNTAUGHT = "{text} It was{answer}"
VERBALIZER = {
    "words": {"negative": [" bad", " terrible"], "positive": [" good", " great"]},
    "reduce": "logsumexp",
}
CONFIG = hr.ReprogramConfig(
    program=hr.PromptConfig(template=TEMPLATE, init_text=[" Review of the product:", " Overall, the sentiment is"]),
    mapping=hr.VerbalizerConfig(**VERBALIZER),
)
SENTENCES = [
    "Stopped working after a week.",
    "The screen is gorgeous and the battery lasts for days.",
    "I wanted to love it, but the zoom is useless.",
]
TRAINING_COST = 3  # a training row takes about as long as three test rows


@dataclass(frozen=True)
class Data:
    """Rows of `text` and `label`: the few to learn from, all that could be learned from, and the held-out ones."""

    few: list[dict[str, str]]
    train: list[dict[str, str]]
    test: list[dict[str, str]]

    @property
    def truth(self) -> list[str]:
        """Labels of the test rows."""
        return [row["label"] for row in self.test]


@dataclass(frozen=True)
class Taught:
    """What comes back from a process that has trained a program: the outcome, and scores to compare a reload with."""

    outcome: Outcome
    scores_of_few: Tensor
    base_unchanged: bool


def read_data(train_rows: int, test_rows: int) -> Data:
    """The first `train_rows` few-shot sentences, half of each label, and the first `test_rows` held-out ones."""
    splits = {
        name: [{"text": row["text"], "label": LABELS[row["label"]]} for row in fetch_models.rows(DATA, name)]
        for name in ("train_32", "train", "test")
    }
    positive, negative = splits["train_32"][:16], splits["train_32"][16:]
    return Data(positive[: train_rows // 2] + negative[: train_rows // 2], splits["train"], splits["test"][:test_rows])


# Teaching ------------------------------------------------------------------------------------------------------------


class Reporter(TrainerCallback):
    """Trainer's steps and losses for the progress bar; a step is `units` of work."""

    def __init__(self, tell: Tell, units: float = BATCH * TRAINING_COST) -> None:
        self.tell, self.units, self.losses = tell, units, []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            note = f"step {state.global_step} of {state.max_steps}, loss {self.losses[-1]:.3f}"
            self.tell(self.units, note)


def teach(tell: Tell, name: str, source_seed: int | None, out: Path, data: Data, steps: int, threads: int) -> Taught:
    """Train the program on the few rows, judge the test rows, save it. Runs in a process of its own.

    Args:
        tell: takes progress.
        name: the method's name in the table.
        source_seed: None for the real model, else the seed of a random one.
        out: folder for the program.
        data: rows.
        steps: of the optimiser.
        threads: of torch; bit for bit the same scores need the same number.
    """
    quiet()
    torch.set_num_threads(threads)
    tell(0, "loading")
    base, tokenizer = load_base()
    if source_seed is not None:
        base = random_source(base, source_seed)
    before = digest(base)
    model = hr.get_reprogram_model(base, CONFIG, processing_class=tokenizer)

    start = time.perf_counter()
    losses = train(model, data.few, steps, tell)
    judged = [0]

    def tick(rows: int) -> None:
        judged[0] += rows
        tell(rows, f"judged {judged[0]:,} of {len(data.test):,}")

    scores = in_slices(data.test, lambda part: model.score(part, progress=False), tick)
    seconds = time.perf_counter() - start

    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    outcome = Outcome(name, guesses(scores, LABELS), numbers, 0, seconds, scores)
    model.peft_config["default"].training = record(model, losses, data, outcome.accuracy(data.truth))
    model.save_pretrained(out)
    outcome = replace(outcome, artefact_bytes=folder_bytes(out))
    return Taught(outcome, model.score(data.few, progress=False), digest(base) == before)


def train(model: hr.ReprogramModel, rows: list[dict[str, str]], steps: int, tell: Tell) -> list[float]:
    """An ordinary Trainer's run; the losses of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            remove_unused_columns=False,
            learning_rate=model.learning_rate,  # 0.07 embedding RMS, falling linearly to 0
            weight_decay=0.0,
            max_grad_norm=model.backbone.rms(),  # 1.0 in raw units
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            seed=SEED,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = hr.make_trainer(model, arguments, rows)
        reporter = Reporter(tell)
        trainer.add_callback(reporter)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return reporter.losses


def record(model: hr.ReprogramModel, losses: list[float], data: Data, accuracy: float) -> dict[str, Any]:
    """What the artefact says of its training."""
    return {
        "seed": SEED,
        "data": f"{DATA}, {len(data.few)} sentences",
        "steps": len(losses),
        "batch": BATCH,
        "learning_rate": model.learning_rate,
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
        "metrics": {"accuracy": round(accuracy, 2), "test_rows": len(data.test)},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def load_base() -> tuple[Any, Any]:
    """The model as it was fetched, and its tokenizer."""
    folder = fetch_models.asset_path(MODEL)
    base = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return base, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def digest(base: torch.nn.Module) -> str:
    """sha256 over all bytes of a model's parameters and buffers."""
    made = hashlib.sha256()
    for tensor in base.state_dict().values():
        made.update(tensor.numpy().tobytes())
    return made.hexdigest()


# The whole ----------------------------------------------------------------------------------------------------------


def untaught(data: Data) -> list[Outcome]:
    """Zero-shot, calibrated and probed: the frozen model without a program."""
    base, tokenizer = load_base()
    # A space before the text, as it has after the slots, so that its first word is the same token.
    few, test = ([{**row, "text": " " + row["text"]} for row in rows] for rows in (data.few, data.test))
    bar = Progress("untaught", len(few) + len(test))
    try:
        model = Untaught(base, tokenizer, UNTAUGHT, VERBALIZER, test, content_free=" N/A", tick=bar.tell)
        outcomes = [model.words("zero_shot"), model.words("calibrated"), model.probe(few)]
        model.close()
        return outcomes
    finally:
        bar.close()


def taught(data: Data, steps: int, threads: int, folder: Path) -> dict[str, Taught]:
    """Ours and the random source, each in a process; ours leaves its program in `folder`."""
    units = steps * BATCH * TRAINING_COST + len(data.test)
    with tempfile.TemporaryDirectory() as aside:
        sources = {"ours": (None, folder), "random_source": (SEED, Path(aside))}
        return side_by_side(
            {name: Job(teach, (name, *source, data, steps, threads), units) for name, source in sources.items()}
        )


def reload(folder: Path, data: Data, expected: Taught) -> hr.ReprogramModel:
    """The saved program on a fresh base, whose scores are those of the trained one, bit for bit."""
    model = hr.AutoReprogramModel.from_pretrained(folder)
    if not torch.equal(model.score(data.few, progress=False), expected.scores_of_few):
        raise RuntimeError(f"{folder} does not score as the trained program did. Please report this")
    return model


def run(data: Data, steps: int, made: Path) -> None:
    """The job itself; leaves program, figure and table in `made`."""
    threads = max(1, torch.get_num_threads() // 2)  # of each of two processes
    outcomes = [majority(data.train, data.test), classical(data.train, data.test, "all")]
    outcomes.append(classical(data.few, data.test, str(len(data.few))))

    say("the frozen model as it is")
    outcomes += untaught(data)

    say("the same training side by side: on the frozen model, and on a model of random weights")
    results = taught(data, steps, threads, made / "program")
    outcomes += [result.outcome for result in results.values()]
    if not all(result.base_unchanged for result in results.values()):
        raise RuntimeError("training has changed the frozen base. Please report this")

    say(f"accuracy in percent on {len(data.test):,} held-out sentences")
    rows = table(outcomes, data.truth, notes(len(data.few), len(data.train)), TASK)
    print(f"{shown(rows)}\n\n{verdict(outcomes, data.truth)}")

    say("the saved program, loaded again")
    torch.set_num_threads(threads)  # another number of threads may add up in another order
    model = reload(made / "program", data, results["ours"])
    size = folder_bytes(made / "program")
    print(f"{size:,} bytes; its scores are those of the trained one bit for bit; the frozen model is unchanged\n")
    for sentence, guess in zip(SENTENCES, model.predict(SENTENCES), strict=True):
        print(f"  {guess['label']}  {100 * guess['score']:5.1f} %  {sentence}")
    print(f"\n{model.explain()}")

    draw(made / "figure.png", {outcome.method: outcome for outcome in outcomes}, data.truth, len(data.few))
    (made / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """A heading."""
    print(f"\n==> {text}", flush=True)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A folder to fill; what it holds in the end replaces what an earlier run left in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    for left in output.glob(".making-*"):  # by a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=output) as made:
        yield Path(made)
        for new in list(Path(made).iterdir()):
            if (output / new.name).is_dir():  # a folder can only be renamed onto nothing
                (output / new.name).rename(Path(made) / f"old-{new.name}")
            os.replace(new, output / new.name)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output", help="where the results go")
    parser.add_argument("--train-rows", type=int, default=32, help="labelled sentences to learn from, at most 32")
    parser.add_argument("--test-rows", type=int, default=1000, help="held-out sentences to judge, at most 1638")
    parser.add_argument("--steps", type=int, default=40, help="training steps")
    options = parser.parse_args(arguments)
    if options.train_rows not in range(2, 33, 2) or options.test_rows < 1 or options.steps < 1:
        parser.error("--train-rows is an even number up to 32 (half of each label); the others are at least 1")
    start = time.monotonic()
    quiet()
    try:
        for name in (MODEL, DATA):
            fetch_models.fetch(name)
        data = read_data(options.train_rows, options.test_rows)
        with replacing(options.output) as made:
            run(data, options.steps, made)
    except (fetch_models.AssetError, JobFailed) as error:
        print(f"demo: {error}\n{options.output} is as it was", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndemo: stopped; {options.output} is as it was", file=sys.stderr)
        return 130
    print(f"\nprogram, figure.png and table.json are in {options.output}; {time.monotonic() - start:.0f} s in all")
    return 0


def quiet() -> None:
    """Leave the terminal to our own bars; errors and Python's warnings still show."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
