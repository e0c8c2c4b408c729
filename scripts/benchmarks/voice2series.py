#!/usr/bin/env python3
"""27 tasks of the UCR archive on a frozen spotter of English words (after Voice2Series, 2106.09296).

One recipe for all tasks: a series is laid out on the second of sound that the attention-RNN takes, the frozen model
listens, and a ridge map reads what its inner layers say, in one or several parts of time. Two canvases are two
programs on one model, each with its map, and the mean of their scores. Canvases and reading are chosen once, by
leave-one-out on rows of the training parts of all tasks; test rows are read once. No sound is learned here
(voice2series_parity.py does that): this is what the frozen model and a map give by themselves.

    python scripts/fetch_models.py attention-rnn
    python scripts/benchmarks/voice2series.py            # minutes; saves after every task, resumes
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fetch_models
import numpy as np
import torch
from benchmarks.report import RESULTS, ROOT, SCRATCH, Report, Row
from transformers import AutoFeatureExtractor

import hf_reprogram as hr
from hf_reprogram.mappings.linear import ridge
from hf_reprogram.sources import AttentionRnnForAudioClassification
from hf_reprogram.tools.random_source import random_source


DATA = ROOT.parent / "shared" / "data" / "ucr-v2s"
CHOICE_ROWS = 60  # of each training part, for the choice of the recipe
RANDOM_SEEDS = (0, 1, 2)
CONTROL_ROWS = 300  # test rows of a task that the controls hear; eight of 27 have more
ABOUT = (
    "27 tasks of the UCR archive on the frozen attention-RNN of Voice2Series (another checkpoint than the paper's): "
    "test accuracy in percent. `ours` is the same for all tasks, chosen by leave-one-out on training rows: fixed "
    "canvases, a ridge map of one inner layer for each, the mean of their scores; nothing is trained by gradients. "
    "`random_source`: the same on random weights. `map_only:spectrogram`: the same on the log-mel spectrogram that "
    "the network takes, so without a network. `paper` is V2S_a of its table 2: its "
    "released code trains the network too, and takes the best epoch on the test rows."
)
CANVASES: dict[str, dict[str, Any]] = {
    "8 copies": {"place": "copies", "copies": 8},
    "stretched": {"stretch": 16000},
    "fm 400 Hz, half an octave": {"place": "fm", "carrier": 400.0, "depth": 0.5},
    "fm 400 Hz, an octave": {"place": "fm", "carrier": 400.0, "depth": 1.0},
    "fm 800 Hz, half an octave": {"place": "fm", "carrier": 800.0, "depth": 0.5},
}
READINGS: dict[str, dict[str, Any]] = {
    "recurrent": {"pool": "statistics", "layer": 1},
    "recurrent in 4 parts": {"pool": "statistics", "layer": 1, "parts": 4},
    "recurrent in 8 parts": {"pool": "statistics", "layer": 1, "parts": 8},
}
SPECTROGRAM = 0  # the layer that is no layer
OURS, SAME, RANDOM, NO_NETWORK = "ours", "ours:rows of the controls", "random_source", "map_only:spectrogram"
Recipe = tuple[tuple[str, ...], str]  # canvases, reading
# V2S_a of the paper, table 2; `?` marks what assets-speech.md section 5 doubts and why.
PAPER = {
    "Coffee": 100.0, "DistalPhalanxTW": 79.14, "ECG200": 87.0, "ECG5000": 93.96, "Earthquakes": 78.42,
    "GunPoint": 96.67, "Ham": 78.1, "Haptics": 52.27, "Herring": 68.75, "ItalyPowerDemand": 97.08,
    "Lightning2": 100.0, "MiddlePhalanxOutlineCorrect": 83.51, "MiddlePhalanxTW": 65.58, "Plane": 100.0,
    "ProximalPhalanxOutlineAgeGroup": 88.78, "ProximalPhalanxOutlineCorrect": 91.07, "ProximalPhalanxTW": 84.88,
    "SmallKitchenAppliances": 83.47, "SonyAIBORobotSurface1": 96.02, "Strawberry": 97.57, "SyntheticControl": 98.0,
    "Trace": 100.0, "TwoLeadECG": 96.66, "Wafer": 100.0, "WormsTwoClass": 98.7, "Worms": 83.12, "Wine": 90.74,
}  # fmt: skip
DOUBTED = {
    "Lightning2": "100 of 61, where the best known was 86.9", "WormsTwoClass": "the same series as Worms",
    "SonyAIBORobotSurface1": "no whole number of 601 rows",
}  # fmt: skip


# Data and models -----------------------------------------------------------------------------------------------------


@functools.cache
def task(name: str, folder: Path = DATA) -> dict[str, np.ndarray]:
    """Series and labels of the official parts."""
    with np.load(folder / f"{name}.npz") as held:
        return {k: held[k].astype("float32" if k.startswith("x") else "int64") for k in held if k != "classes"}


def rows(series: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """As a user would give them."""
    return [{"series": x, "label": f"class {y}"} for x, y in zip(series, labels, strict=True)]


@functools.cache
def base(seed: int | None = None) -> Any:
    """The frozen spotter, or one of random weights of the same scale."""
    real = AttentionRnnForAudioClassification.from_pretrained(fetch_models.fetch("attention-rnn"))
    return real if seed is None else random_source(real, seed)


def config(classes: int, canvas: str, reading: dict[str, Any]) -> hr.ReprogramConfig:
    """A canvas and a ridge map, for a task."""
    return hr.ReprogramConfig(
        mapping=hr.LinearConfig(on="state", **reading),
        labels=[f"class {y}" for y in range(classes)],
        canvas=hr.CanvasConfig(samples=16000, level="rms", **CANVASES[canvas]),
    )


def model(configs: Sequence[hr.ReprogramConfig], seed: int | None = None) -> hr.ReprogramModel:
    """A base with a program for each config, named by number."""
    extractor = AutoFeatureExtractor.from_pretrained(fetch_models.fetch("attention-rnn"))
    made = hr.get_reprogram_model(base(seed), configs[0], processing_class=extractor, adapter_name="canvas0")
    for i, other in enumerate(configs[1:], 1):
        made.add_adapter(f"canvas{i}", other)
    return made


# Cells ---------------------------------------------------------------------------------------------------------------


def choice(names: Sequence[str], reading: str) -> Iterator[Row]:
    """Leave-one-out accuracy on training rows, in the mean of all tasks: of every canvas, and of every pair."""
    found: dict[tuple[str, ...], list[float]] = {}
    for name in names:
        held = task(name)
        picked = few(len(held["y_train"]), CHOICE_ROWS)
        x, y = held["x_train"][picked], held["y_train"][picked]
        scores = {}
        for canvas in CANVASES:
            made = model([config(int(held["y_train"].max()) + 1, canvas, READINGS[reading])])
            try:
                scores[canvas] = left_out(made.frozen_rows(rows(x, y)).values.double().numpy(), y)
            finally:
                made.unload()
        for some in (*itertools.combinations(CANVASES, 1), *itertools.combinations(CANVASES, 2)):
            guesses = sum(scores[canvas] for canvas in some).argmax(1)
            found.setdefault(some, []).append(100 * float((guesses == y).mean()))
    for some, values in found.items():
        method = f"ours:{' + '.join(some)}; {reading}"
        yield Row("choice, training rows", method, "loo_accuracy", float(np.mean(values)), n=len(values))


def few(count: int, most: int) -> np.ndarray:
    """Indices of so many rows at most, as mixed as the whole."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def left_out(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scores (rows, classes) of each row by ridge regression on the others, its penalty the one of least error."""
    target = np.eye(int(y.max()) + 1)[y]
    penalty = ridge(z, target)[2]
    centred, goal = z - z.mean(0), target - target.mean(0)
    kernel = centred @ centred.T
    hat = kernel @ np.linalg.inv(kernel + penalty * np.eye(len(z)))
    diagonal = np.diag(hat)[:, None] + 1 / len(z)  # the mean is estimated from the same rows
    return target - (goal - hat @ goal) / (1 - diagonal)


def chosen(found: Sequence[Row]) -> Recipe:
    """Canvases and reading of the best leave-one-out accuracy."""
    best = max((row for row in found if row.metric == "loo_accuracy"), key=lambda row: row.value)
    canvases, _, reading = best.method.removeprefix("ours:").partition("; ")
    return tuple(canvases.split(" + ")), reading


def measured(name: str, recipe: Recipe, aeon: Path | None) -> Iterator[Row]:
    """Ours on all rows of a task, on those of the controls, and what needs no speech model.

    Args:
        name, recipe: of the task, and what was chosen.
        aeon: a Python that has aeon, for MiniRocket.
    """
    held = task(name)
    classes, truth = int(held["y_train"].max()) + 1, held["y_test"]
    size = f"{len(held['y_train'])} / {len(truth)} rows"

    def row(method: str, guesses: np.ndarray, note: str = "") -> Row:
        return Row(name, method, "accuracy", 100 * float((guesses == truth).mean()), n=len(truth), note=note or size)

    ours = heard(name, recipe, np.arange(len(truth)))
    yield row(OURS, ours)
    part = few(len(truth), CONTROL_ROWS)
    yield Row(name, SAME, "accuracy", 100 * float((ours == truth)[part].mean()), n=len(part))
    yield row("majority", np.full(len(truth), np.bincount(held["y_train"]).argmax()))
    yield row("classical:1nn", nearest(held["x_train"], held["y_train"], held["x_test"]))
    z = held["x_train"].astype(float)
    matrix, bias, *_ = ridge(z, np.eye(classes)[held["y_train"]])
    yield row("classical:ridge", (held["x_test"] @ matrix.T + bias).argmax(1), "of the raw series")
    if aeon is None:
        yield from kept_rocket(name)
    else:
        yield row("classical:minirocket", minirocket(name, aeon), "aeon")
    if name in PAPER:
        yield Row(name, "paper", "accuracy", PAPER[name], note=f"doubtful: {DOUBTED[name]}" if name in DOUBTED else "")


def control(name: str, recipe: Recipe, method: str, **changes: Any) -> Iterator[Row]:
    """The recipe with random weights, or on the spectrogram alone, on some test rows."""
    truth = task(name)["y_test"]
    part = few(len(truth), CONTROL_ROWS)
    guesses = heard(name, recipe, part, **changes)
    yield Row(name, method, "accuracy", 100 * float((guesses == truth[part]).mean()), n=len(part))


def heard(
    name: str, recipe: Recipe, part: np.ndarray, seed: int | None = None, layer: int | None = None
) -> np.ndarray:
    """Guesses of the recipe for some test rows, fitted on the whole training part: the mean of its programs' scores.

    Args:
        name, recipe, part: of the task; canvases and reading; which test rows.
        seed: of random weights.
        layer: read in the place of the recipe's own.
    """
    held = task(name)
    classes, reading = (
        int(held["y_train"].max()) + 1,
        READINGS[recipe[1]] | ({} if layer is None else {"layer": layer}),
    )
    train, test = rows(held["x_train"], held["y_train"]), rows(held["x_test"][part], held["y_test"][part])
    made, total = model([config(classes, canvas, reading) for canvas in recipe[0]], seed), 0
    try:
        for name in list(made.peft_config):
            made.set_adapter(name)
            made.fit_mapping(made.frozen_rows(train))
            total = total + made.score(test, progress=False)  # (rows, classes)
        return total.argmax(1).numpy()
    finally:
        made.unload()


def nearest(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The label of the nearest training series."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1).fit(x, y).predict(test)


ROCKET = """
import json, sys
import numpy as np
from aeon.classification.convolution_based import MiniRocketClassifier
with np.load(sys.argv[1]) as held:
    x, y, test = held["x_train"].astype(float), held["y_train"], held["x_test"].astype(float)
found = MiniRocketClassifier(random_state=0, n_jobs=1).fit(x[:, None], y)
print(json.dumps(found.predict(test[:, None]).tolist()))
"""


def minirocket(name: str, python: Path) -> np.ndarray:
    """Guesses of MiniRocket with ridge, by an interpreter of its own: aeon's numba wants another numpy than ours."""
    done = subprocess.run([python, "-c", ROCKET, DATA / f"{name}.npz"], capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def kept_rocket(name: str) -> Iterator[Row]:
    """MiniRocket's number as an earlier run left it: neither data nor method has changed since."""
    path = RESULTS / "voice2series.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
    for row in found["rows"]:
        if (row["task"], row["method"], row["metric"]) == (name, "classical:minirocket", "accuracy"):
            note = row["note"] if "commit" in row["note"] else f"aeon; measured at commit {found['commit']}"
            yield Row(**{**row, "note": note})


def drawn(found: Sequence[Row]) -> list[Row]:
    """The draws of random weights as one row of a task: mean, lowest, highest."""
    draws: dict[str, list[Row]] = {}
    for row in found:
        if row.method.startswith(f"{RANDOM}:"):
            draws.setdefault(row.task, []).append(row)
    made = [row for row in found if not row.method.startswith(f"{RANDOM}:")]
    for name, some in draws.items():
        values = [row.value for row in some]
        note = f"{some[0].n} test rows, {len(some)} draws"
        made.append(Row(name, RANDOM, "accuracy", float(np.mean(values)), min(values), max(values), some[0].n, note))
    return sorted(made, key=lambda row: (row.metric != "loo_accuracy", row.task))  # stable: methods keep their order


def summary(found: Sequence[Row]) -> list[Row]:
    """Means over tasks, how often ours wins, and the differences with their intervals over tasks: those over the
    controls on the rows that they heard."""
    by: dict[str, dict[str, float]] = {}
    for row in found:
        if row.metric == "accuracy":
            by.setdefault(row.method, {})[row.task] = row.value
    names, every = list(by[OURS]), f"mean of {len(by[OURS])} tasks"
    value = {m: np.array([v[n] for n in names]) for m, v in by.items() if set(v) == set(names)}
    made = []
    for method, values in value.items():
        mean = float(values.mean())
        note = f"bar >= 82: {'met' if mean >= 82 else 'NOT met'}" if method == OURS else ""
        made.append(Row(every, method, "accuracy", mean, n=len(names), note=note))
    draw = np.random.default_rng(0).integers(len(names), size=(10_000, len(names)))
    for method, values in value.items():
        if method in (OURS, SAME):
            continue
        gain = value[SAME if method in (RANDOM, NO_NETWORK) else OURS] - values
        low, high = np.quantile(gain[draw].mean(1), [0.025, 0.975])
        won = f"above on {int((gain > 0).sum())}, level on {int((gain == 0).sum())} of {len(names)} tasks"
        metric = f"accuracy_gain_over:{method}"
        made.append(Row(every, OURS, metric, float(gain.mean()), float(low), float(high), len(names), won))
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small tasks (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    parser.add_argument("--aeon", type=Path, metavar="PYTHON", help="a Python that has aeon, to run MiniRocket again")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    names = ["Coffee", "GunPoint", "ItalyPowerDemand"] if options.quick else sorted(p.stem for p in DATA.glob("*.npz"))
    settings = {
        "choice_rows": CHOICE_ROWS, "control_rows": CONTROL_ROWS, "canvases": CANVASES, "readings": READINGS,
        "tasks": names, "threads": 1,
    }  # fmt: skip
    folder = options.out or (SCRATCH if options.quick else RESULTS)
    command = "python scripts/benchmarks/voice2series.py"
    report = Report("voice2series", ABOUT, settings, list(RANDOM_SEEDS), folder, options.fresh, command)
    left = [] if options.finish else names
    for reading in READINGS if left else ():
        report.cell(f"choice: {reading}", lambda r=reading: choice(names, r))
    recipe = chosen(report.rows)
    print(f"the recipe: {' + '.join(recipe[0])}; {recipe[1]}", flush=True)
    for name in left:
        report.cell(name, lambda n=name: measured(n, recipe, options.aeon))
    for seed in RANDOM_SEEDS:
        for name in left:
            method = f"{RANDOM}:{seed}"
            report.cell(f"{name}: {method}", lambda n=name, s=seed, m=method: control(n, recipe, m, seed=s))
    for name in left:
        report.cell(f"{name}: {NO_NETWORK}", lambda n=name: control(n, recipe, NO_NETWORK, layer=SPECTROGRAM))
    found = drawn(report.rows)
    report.publish([*summary(found), *found])
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
