#!/usr/bin/env python3
"""Voice2Series (2106.09296) as its paper says it, and as its released code trains it, on 27 tasks of the UCR archive.

`ours` is the preset `voice2series` on the frozen attention-RNN: a learned sound between copies of the series, source
classes in random groups. A quarter of the training part chooses the rate, then the sound is learned on all of it; test
rows are read once, after the last epoch. Beside it the same on random weights, and the same placement untrained, under
a ridge map. `released_code` is the regime of the published numbers: the preset `voice2series_code`, the network
unfrozen, the best epoch on the test rows. The library freezes every base, so this one is trained here, outside of it.

    python scripts/fetch_models.py attention-rnn
    python scripts/benchmarks/voice2series_parity.py     # 1.5 hours on a core; saves after every run, resumes

1-NN, MiniRocket and ridge on the raw series are those of voice2series.py, on the same rows.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import demo
import fetch_models
import numpy as np
import torch
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.voice2series import DATA, base, few, rows, task
from transformers import AutoFeatureExtractor, PrinterCallback, TrainingArguments

import hf_reprogram as hr


ABOUT = (
    "The attention-RNN of Voice2Series (another checkpoint than the paper's) on 27 tasks of the UCR archive: test "
    "accuracy in percent, on at most 200 test rows of a task (the paper's, and without a speech model, on all). "
    "`ours`: preset `voice2series`, the network frozen, the rate chosen on a quarter of the training part, the last "
    "epoch. `random_source`: the same on random weights. `fixed placement`: the same canvas, "
    "no sound, a ridge map of a hidden layer. `released_code`: the preset `voice2series_code`, the network trained "
    "too, the best epoch by the very test rows that it is scored on, as the code of the paper does; no fair number."
)
RATES = (1e-3, 1e-2, 5e-2)
BATCH = 16
CLIPS = 2000  # that a fit hears at most: large tasks get fewer epochs
EPOCHS = (4, 40)  # bounds
TEST_ROWS = 200  # of a task, drawn where there are more: the same for every method that is measured here
CODE_BATCH, CODE_RATE, CODE_DECAY, CODE_PENALTY = 32, 0.05, 0.48, 0.05  # of the released code
CODE_EPOCHS, CODE_CLIPS, CODE_LOOKS = 100, 5000, 20  # its epochs; a bound as above; how often it looks at the test
KNOWN = ("paper", "classical:1nn", "classical:minirocket", "classical:ridge", "majority")
OURS, RANDOM, FIXED = "ours", "random_source", "map_only:fixed placement"
CODE, CODE_LAST = "released_code", "released_code:last epoch"


def epochs(count: int) -> int:
    """How often a training part of so many rows is heard."""
    return int(np.clip(CLIPS // count, *EPOCHS))


def parts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices to learn from, and a quarter of every label to choose by; labels of one row only are learned from."""
    draw, held = np.random.default_rng(0), []
    for label in np.unique(labels):
        found = draw.permutation(np.flatnonzero(labels == label))
        held += found[: max(len(found) // 4, int(len(found) > 1))].tolist()
    return np.setdiff1d(np.arange(len(labels)), held), np.array(sorted(held))


def tested(name: str) -> list[dict[str, Any]]:
    """The test rows of a task that are heard."""
    held = task(name)
    part = few(len(held["y_test"]), TEST_ROWS)
    return rows(held["x_test"][part], held["y_test"][part])


# Ours ----------------------------------------------------------------------------------------------------------------


def model(config: hr.ReprogramConfig, network: Any) -> hr.ReprogramModel:
    """A program on a network."""
    extractor = AutoFeatureExtractor.from_pretrained(fetch_models.fetch("attention-rnn"))
    return hr.get_reprogram_model(network, config, processing_class=extractor)


def preset(name: str, labels: np.ndarray) -> hr.ReprogramConfig:
    """A preset for a task's labels."""
    return hr.ReprogramConfig.from_preset(name, labels=[f"class {y}" for y in range(int(labels.max()) + 1)])


def learned(
    config: hr.ReprogramConfig, train: list[dict[str, Any]], rate: float, passes: int, seed: int | None
) -> Any:
    """The preset after its last epoch."""
    made = model(config, base(seed))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, remove_unused_columns=False, num_train_epochs=passes, per_device_train_batch_size=BATCH,
            learning_rate=rate, lr_scheduler_type="cosine", weight_decay=0.0, max_grad_norm=1.0, seed=0, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = hr.make_trainer(made, arguments, train)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return made


def judged(made: Any, held: list[dict[str, Any]]) -> tuple[float, float]:
    """Accuracy in percent, and minus the loss."""
    found = made.evaluate(held, batch_size=64, progress=False)
    return 100 * found["accuracy"], -found["loss"]


def ours(name: str, seed: int | None = None) -> Iterator[Row]:
    """The preset, its rate chosen on a quarter of the training part; with a seed on random weights."""
    held = task(name)
    config, count = preset("voice2series", held["y_train"]), len(held["y_train"])
    learn, choose = parts(held["y_train"])
    train, test = rows(held["x_train"], held["y_train"]), tested(name)
    tried = {}
    for rate in RATES:
        made = learned(config, [train[i] for i in learn], rate, max(epochs(count) // 4, 2), seed)
        tried[rate] = judged(made, [train[i] for i in choose])
        made.unload()
    best = max(tried, key=tried.get)
    made = learned(config, train, best, epochs(count), seed)
    reached = judged(made, test)[0]
    made.unload()
    told = ", ".join(f"{rate:g}: {value[0]:.1f}" for rate, value in tried.items())
    note = f"{count} / {len(test)} rows, {epochs(count)} epochs at rate {best:g} (held out {told})"
    yield Row(name, OURS if seed is None else RANDOM, "accuracy", reached, n=len(test), note=note)


def fixed(name: str) -> Iterator[Row]:
    """The preset's canvas without a sound: a ridge map of the layer after the attention."""
    held = task(name)
    like = preset("voice2series", held["y_train"])
    mapping = hr.LinearConfig(on="state", pool="mean", layer=3)
    made = model(hr.ReprogramConfig(mapping=mapping, labels=like.labels, canvas=like.canvas), base())
    made.fit_mapping(rows(held["x_train"], held["y_train"]))
    test = tested(name)
    reached = judged(made, test)[0]
    made.unload()
    yield Row(name, FIXED, "accuracy", reached, n=len(test), note="nothing trained by gradients")


# The released code's regime ------------------------------------------------------------------------------------------


def released(name: str) -> Iterator[Row]:
    """The network trained with the sound, and the epoch taken that is best on the test rows: no evidence of transfer.

    Other than the code, the batch norms keep the statistics of speech commands.
    """
    held = task(name)
    train, test = rows(held["x_train"], held["y_train"]), tested(name)
    torch.manual_seed(0)
    made = model(preset("voice2series_code", held["y_train"]), copy.deepcopy(base()))
    network, theta, collator = made.backbone.base, made.active_programs()[0].theta, made.collator()
    network.requires_grad_(True)
    optimiser = torch.optim.Adam([theta, *network.parameters()], lr=CODE_RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + CODE_DECAY * step))
    passes = min(CODE_EPOCHS, CODE_CLIPS // len(train))
    draw, reached = np.random.default_rng(0), {}  # reached: by epoch
    for epoch in range(1, passes + 1):
        order = draw.permutation(len(train))
        for start in range(0, len(train), CODE_BATCH):
            columns = collator([train[i] for i in order[start : start + CODE_BATCH]])
            loss = made(**columns).loss + CODE_PENALTY * theta.square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
        if epoch % -(-passes // CODE_LOOKS) == 0 or epoch == passes:
            reached[epoch] = judged(made, test)[0]
    note = f"network unfrozen; {len(train)} / {len(test)} rows"
    best = max(reached, key=reached.get)
    told = f"{note}; epoch {best} of {passes}, the best on test of {len(reached)} looked at"
    yield Row(name, CODE, "accuracy", reached[best], n=len(test), note=told)
    yield Row(name, CODE_LAST, "accuracy", reached[passes], n=len(test), note=f"{note}; epoch {passes}")


# Table ---------------------------------------------------------------------------------------------------------------


def known(names: Sequence[str]) -> list[Row]:
    """The paper's numbers and those of methods without a speech model, as voice2series.py left them."""
    found = json.loads((RESULTS / "voice2series.json").read_text(encoding="utf-8"))["rows"]
    return [Row(**r) for r in found if r["metric"] == "accuracy" and r["method"] in KNOWN and r["task"] in names]


def summary(found: Sequence[Row]) -> list[Row]:
    """Means over the tasks of ours, and what ours gains over each method on the tasks that both have."""
    by: dict[str, dict[str, float]] = {}
    for row in found:
        by.setdefault(row.method, {})[row.task] = row.value
    made, gains = [], []
    for method, theirs in by.items():
        names = sorted(set(theirs) & set(by[OURS]))
        values = np.array([theirs[name] for name in names])
        every = f"mean of {len(names)} tasks"
        made.append(Row(every, method, "accuracy", float(values.mean()), n=len(names)))
        if method == OURS:
            continue
        gain = np.array([by[OURS][name] for name in names]) - values
        draw = np.random.default_rng(0).integers(len(names), size=(10_000, len(names)))
        low, high = np.quantile(gain[draw].mean(1), [0.025, 0.975])
        won = f"above on {int((gain > 0).sum())}, level on {int((gain == 0).sum())} of {len(names)} tasks"
        metric = f"accuracy_gain_over:{method}"
        gains.append(Row(every, OURS, metric, float(gain.mean()), float(low), float(high), len(names), won))
    return [*made, *gains]


def planned(names: Sequence[str]) -> list[tuple[str, Callable[[], Iterator[Row]]]]:
    """All cells, the cheapest first, so that an early stop leaves most of the table; random weights later."""
    found = []
    for name in names:
        count = len(task(name)["y_train"])
        trained, code = 2 * count * epochs(count), 1.3 * min(CODE_EPOCHS * count, CODE_CLIPS)
        found += [
            (0.0, f"{name}: fixed placement", functools.partial(fixed, name)),
            (trained, f"{name}: ours", functools.partial(ours, name)),
            (code, f"{name}: released code", functools.partial(released, name)),
            (trained + CODE_CLIPS / 2, f"{name}: random weights", functools.partial(ours, name, seed=0)),
        ]
    return [cell[1:] for cell in sorted(found, key=lambda cell: cell[:2])]


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small task (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    torch.set_num_threads(1)
    names = ["Coffee"] if options.quick else sorted(p.stem for p in DATA.glob("*.npz"))
    settings = {
        "rates": RATES, "batch": BATCH, "clips": CLIPS, "epochs": EPOCHS, "code_batch": CODE_BATCH,
        "code_rate": CODE_RATE, "code_decay": CODE_DECAY, "code_penalty": CODE_PENALTY,
        "code_epochs": CODE_EPOCHS, "code_clips": CODE_CLIPS, "code_looks": CODE_LOOKS, "test_rows": TEST_ROWS,
        "tasks": names, "threads": 1,
    }  # fmt: skip
    command = "python scripts/benchmarks/voice2series_parity.py"
    folder = SCRATCH if options.quick else RESULTS
    report = Report("voice2series_parity", ABOUT, settings, [0], folder, options.fresh, command)
    for key, measure in [] if options.finish else planned(names):
        report.cell(key, measure)
    found = report.rows
    found = sorted([*found, *known({row.task for row in found})], key=lambda row: row.task)
    report.publish([*summary(found), *found])
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
