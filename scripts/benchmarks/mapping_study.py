#!/usr/bin/env python3
"""Which map from a frozen model's own answers to the labels of a task: all of them, on the same cached answers.

Four sources: the attention-RNN's 36 words and Moonshine's first token on five sets of spoken words; SmolLM2's next
token and MiniLM's likeness to fifty anchor words on five sets of texts. For each pair the model runs once over the
rows; then every mapping is fitted on 4 and 16 rows a class and on all of them, three draws, and judged on the same
test rows: by balanced accuracy, the mean of the labels' own, because draws hold as many rows of each label whatever
its share, and no map can know the shares. Beside them a ridge of the model's states, and how much of the scores is
offset: rho, the deviation of the outputs' means over the mean deviation of an output. What the same maps are worth
once a program was trained before the model is asked by mapping_programs.py.

    python scripts/fetch_models.py attention-rnn moonshine-tiny smollm2-135m minilm-l6
    python scripts/benchmarks/mapping_study.py            # half an hour on one core; saves after every cell, resumes
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # demo.py and fetch_models.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import demo
import fetch_models
import numpy as np
import torch
from benchmarks import few_shot, speech_data, speech_methods
from benchmarks.few_shot_tasks import AG_NEWS, MPQA, MR, SST2, TREC
from benchmarks.few_shot_tasks import read as read_texts
from benchmarks.report import DEVICE, RESULTS, SCRATCH, Report, Row
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

import hf_reprogram as hr
from hf_reprogram.errors import ReprogramError
from hf_reprogram.serve import readouts


ABOUT = (
    "Frozen models' own answers mapped to labels; balanced accuracy on the test rows in percent, mean over draws "
    "(worst to best). Nothing but the map is fitted unless a row says so."
)
BALANCED = "balanced_accuracy"
NEAR, NEVER = 1.0, 5.0  # issue 12: points of `auto` from the best map of a cell, in the mean; and in no cell
TEXTS = {task.name: task for task in (SST2, TREC, MPQA, MR, AG_NEWS)}
SOUNDS = {
    "fsdd": speech_data.FSDD, "ar-scr": speech_data.AR_SCR, "gsc12, ten words": speech_data.TEN,
    "gsc12": speech_data.GSC12, "arabic-40": speech_data.ARABIC,
}  # fmt: skip
PAIRS = [
    *((source, target) for target in SOUNDS for source in ("attention-rnn", "moonshine-tiny")),
    *((source, target) for target in TEXTS for source in ("minilm, anchors", "smollm2-135m")),
]
ANCHORS = (  # noqa: SIM905 - a list is fifty lines
    "good bad happy sad love hate money war sport game science computer city country person people food "
    "animal body number time year water fire earth peace music film book school work house family child "
    "woman man king law crime death life health news market company ball team space star history art god"
).split()


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Args:
        pairs: of source and target.
        pool: rows from which draws are taken; all of them is the largest draw.
        test: rows that are judged.
        shots: rows a class of the smaller draws.
        draws: of each.
    """

    pairs: int = len(PAIRS)
    pool: int = 400
    test: int = 400
    shots: tuple[int, ...] = (4, 16)
    draws: int = 3


# Sources and rows ----------------------------------------------------------------------------------------------------


def rows_of(target: str, plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(pool with each label in like share, rows to judge)."""
    if target in TEXTS:
        task = TEXTS[target]
        train, test = read_texts(task, "train"), read_texts(task, task.test)
        train = [row for row in train if len(row["text"].split()) >= task.minimum]
    else:
        train, test = (speech_data.read(SOUNDS[target], split) for split in ("train", "test"))
    generator = random.Random(0)
    generator.shuffle(train)
    generator.shuffle(test)
    labels = sorted({row["label"] for row in train})
    each = -(-plan.pool // len(labels))
    pool = [row for label in labels for row in [r for r in train if r["label"] == label][:each]]
    return pool, test[: plan.test]


@functools.cache
def minilm() -> tuple[Any, Any]:
    """MiniLM and its tokenizer."""
    folder = fetch_models.asset_path("minilm-l6")
    return (
        AutoModel.from_pretrained(folder, local_files_only=True).eval(),
        AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=64),
    )


@functools.cache
def anchored() -> tuple[Any, Any]:
    """MiniLM as a model that is asked: twenty times the cosine between a text and each anchor word."""
    encoder, tokenizer = minilm()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        columns = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        keep = columns["attention_mask"].unsqueeze(-1)
        states = (encoder(**columns).last_hidden_state * keep).sum(1) / keep.sum(1)
        return torch.nn.functional.normalize(states, dim=1)

    words = ANCHORS[:50]
    anchors = embed(words)
    return hr.remote_text(lambda texts: (20 * embed(texts) @ anchors.T).numpy(), words, "minilm-l6, anchors")


def model_of(source: str, target: str, labels: list[str], program: Any = None) -> hr.ReprogramModel:
    """The frozen source under a ridge map, which is estimated anew after each epoch under a program."""
    if target in TEXTS:
        base, processor = anchored() if "anchors" in source else few_shot.smollm2()
        template = "{text}" if "anchors" in source else TEXTS[target].untaught.replace("{text}", " {text}")
        config: dict[str, Any] = {"program": program or {"type": "none", "template": template}}
    else:
        base, processor = speech_methods.source(source)
        config = {"program": program or "none", "canvas": speech_methods.SECOND}
    on = "source" if source in ("moonshine-tiny", "smollm2-135m") else "classes"
    mapping = hr.LinearConfig(on=on, refit_every=1 if program else None)
    config = hr.ReprogramConfig(mapping=mapping, labels=labels, **config)
    return hr.get_reprogram_model(base, config, processing_class=processor).to(DEVICE)


def mappings(source: str, target: str, labels: list[str]) -> dict[str, Any]:
    """All maps that the study fits, by name."""
    found: dict[str, Any] = {
        "random": hr.LabelsConfig(method="random"),
        "frequency": hr.LabelsConfig(),
        "frequency, not centred": hr.LabelsConfig(centred=False),
        "assignment": hr.LabelsConfig(method="assignment"),
        "bayesian": hr.BayesianConfig(),
        "bayesian, not centred": hr.BayesianConfig(centred=False),
        "bayesian, likely": hr.BayesianConfig(count="likely"),
        "transport": hr.TransportConfig(),
        "prototype": hr.PrototypeConfig(),
        "prototype, shrunk": hr.PrototypeConfig(shape="shrunk"),
        "ridge": hr.LinearConfig(on="source" if source in ("moonshine-tiny", "smollm2-135m") else "classes"),
        "auto": hr.AutoConfig(),
    }
    if source == "smollm2-135m":
        words = TEXTS[target].verbalizer["words"]
        found |= {
            "verbalizer": hr.VerbalizerConfig(words=words),
            "verbalizer, calibrated": hr.VerbalizerConfig(words=words, calibration="batch"),
            "verbalizer, word by word": hr.VerbalizerConfig(words=words, calibration="words"),
            "knowledge": hr.KnowledgeConfig(words=words, weighted=False),
            "ridge of the words": hr.LinearConfig(on="rows", words=[word for each in words.values() for word in each]),
            "residual": hr.ResidualConfig(words=words),
            "auto": hr.AutoConfig(words=words),
        }
    if source == "attention-rnn":
        found |= {"similarity": hr.SimilarityConfig(), "similarity, greedy": hr.SimilarityConfig(assignment="greedy")}
    if source == "attention-rnn" and len(labels) <= 36:
        encoder, tokenizer = minilm()
        base = speech_methods.source(source)[0]
        found["semantic"] = hr.labels_by_name(base, labels, encoder, tokenizer)
    return found


# Cells ---------------------------------------------------------------------------------------------------------------


def read(model: hr.ReprogramModel, rows: Sequence[dict[str, Any]], readings: list[Any]) -> list[Tensor]:
    """What each reading gives of rows, (rows, K)."""
    collator = model.collator()
    return readouts(model, collator, collator.lay_out(rows, labelled=False), readings, progress=False)


@dataclass(frozen=True)
class Answers:
    """What a frozen model gave of rows: its own scores (rows, K), mean states (rows, H)."""

    scores: Tensor
    states: Tensor | None = None

    def of(self, reading: hr.Reading) -> Tensor | None:
        """What one reading would have given."""
        if reading.kind == "state":
            return self.states
        return self.scores if reading.ids is None else self.scores[:, list(reading.ids)]


def answers(
    source: str, target: str, plan: Plan, pool: list[dict[str, Any]], test: list[dict[str, Any]]
) -> tuple[Answers, Answers]:
    """The frozen model's answers to pool and test, kept in scratch."""
    file = SCRATCH / "mapping_study" / f"{source} on {target}, {plan.pool}, {plan.test}.npz"
    if not file.exists():
        model = model_of(source, target, sorted({row["label"] for row in pool}))
        readings = [model.active_mapping().reading(), hr.Reading("state", pool="mean")]
        found = [read(model, part, readings) for part in (pool, test)]
        model.unload()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, *(part.numpy() for both in found for part in both))
        partial.rename(file)
    with np.load(file) as kept:
        z, states, z_test, states_test = (torch.from_numpy(kept[f"arr_{i}"]) for i in range(4))
    return Answers(z, states), Answers(z_test, states_test)


def drawn(y: np.ndarray, shots: int | None, seed: int) -> np.ndarray:
    """Numbers of `shots` rows of each label; all rows where it is None, in another order for each seed."""
    order = np.random.default_rng(seed).permutation(len(y))
    if shots is None:
        return order
    return np.concatenate([order[y[order] == c][:shots] for c in range(y.max() + 1)])


def rho(z: Tensor) -> float:
    """Deviation of the outputs' means over the mean deviation of an output."""
    return float(z.mean(0).std() / z.std(0).mean().clamp(min=1e-9))


def frozen(source: str, target: str, plan: Plan) -> Iterator[Row]:
    """Every map on the answers of the frozen model."""
    pool, test = rows_of(target, plan)
    labels = sorted({row["label"] for row in pool})
    seen, judged = answers(source, target, plan, pool, test)
    z, states = seen.scores, seen.states
    model = model_of(source, target, labels)
    y, y_test = (np.array([labels.index(row["label"]) for row in part]) for part in (pool, test))
    task = f"{source} on {target}"
    yield Row(task, "scores", "rho", rho(z), n=len(z), note=f"{z.shape[1]} outputs, {len(labels)} labels")
    yield Row(task, "majority", BALANCED, 100 / len(labels), n=len(y_test))
    for shots in (*plan.shots, None):
        for seed in range(plan.draws):
            some = drawn(y, shots, seed)
            where = f"{task}, {shots or 'all'}, draw {seed}"
            maps = mappings(source, target, labels) | {"probe": hr.LinearConfig(on="state", pool="mean")}
            right = fitted(model, maps, Answers(z[some], states[some]), y[some], judged, y_test)
            yield from judged_rows(where, right, len(y_test))
    model.unload()


def judged_rows(where: str, right: dict[str, dict[str, float]], tested: int) -> Iterator[Row]:
    """A row for each map and metric."""
    for name, marks in right.items():
        yield from (Row(where, name, metric, value, n=tested) for metric, value in marks.items())


def fitted(
    model: hr.ReprogramModel,
    options: dict[str, Any],
    seen: Answers,
    y: np.ndarray,
    judged: Answers,
    y_test: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Balanced and plain accuracy of each map, in percent; those that cannot be had here are left out."""
    found, config = {}, model.peft_config["default"]
    for name, each in options.items():
        try:
            part = hr.ReprogramConfig.from_dict({**config.to_dict(), "mapping": each.to_dict()})
            model.add_adapter("studied", part)
        except ReprogramError:
            continue
        model.set_adapter("studied")
        mapping = model.active_mapping().cpu()  # where answers are kept
        try:
            if mapping.estimated != "never":
                mapping.fit(seen.of(mapping.fit_reading()), torch.from_numpy(y))
            reading = mapping.reading()
            with torch.no_grad():
                said = mapping(hr.Readout(judged.of(reading), kind=reading.kind)).argmax(1).numpy()
            marks = {BALANCED: balanced_accuracy_score(y_test, said), "accuracy": (said == y_test).mean()}
            found[name] = {metric: 100 * float(mark) for metric, mark in marks.items()}
        except ReprogramError:
            pass
        finally:
            model.set_adapter("default")
            model.delete_adapter("studied")
    return found


def means(cells: Sequence[Row], metric: str) -> dict[str, dict[str, list[float]]]:
    """Values over draws, by task and map."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in cells:
        task, sign, _ = row.task.rpartition(", draw ")
        if sign and row.metric == metric:
            found.setdefault(task, {}).setdefault(row.method, []).append(row.value)
    return found


def behind(cells: Sequence[Row], metric: str) -> Row:
    """How far `auto` is from the best map of each cell."""
    gaps = []
    for task, methods in means(cells, metric).items():
        mean = {name: float(np.mean(values)) for name, values in methods.items() if name != "probe"}
        gaps.append((max(mean.values()) - mean["auto"], task))
    values, (worst, where) = [gap for gap, _ in gaps], max(gaps)
    met = np.mean(values) <= NEAR and worst <= NEVER
    note = f"bar: <= {NEAR:g} in the mean and <= {NEVER:g} anywhere: {'met' if met else 'NOT met'}; worst on {where}"
    spread = min(values), worst, len(values)
    return Row("all", "auto", f"points_behind_best, {metric}", float(np.mean(values)), *spread, note)


def summary(cells: Sequence[Row]) -> list[Row]:
    """Means over draws; how far `auto` is from the best; what centring adds, beside rho."""
    rows = [row for row in cells if row.metric == "rho" or row.method == "majority"]
    centring: dict[str, list[float]] = {"frequency": [], "bayesian": []}
    for task, methods in means(cells, BALANCED).items():
        mean = {name: float(np.mean(values)) for name, values in methods.items()}
        for name in sorted(mean, key=lambda n: -mean[n]):
            values = methods[name]
            rows.append(Row(task, name, BALANCED, mean[name], min(values), max(values), len(values)))
        for name, gained in centring.items():
            if f"{name}, not centred" in mean:
                gained.append(mean[name] - mean[f"{name}, not centred"])
                rows.append(Row(task, name, "gain_of_centring", gained[-1]))
    rows[:0] = [
        *(behind(cells, metric) for metric in (BALANCED, "accuracy")),
        *(
            Row(
                "all",
                name,
                "gain_of_centring",
                float(np.median(gained)),
                min(gained),
                max(gained),
                len(gained),
                "median",
            )
            for name, gained in centring.items()
            if gained
        ),
    ]
    return rows


QUICK = Plan(pairs=1, pool=40, test=20, shots=(2,), draws=1)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pair, a few rows (a trial, no evidence)")
    parser.add_argument("--finish", action="store_true", help="write what an interrupted run has, measure no more")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(given)
    demo.quiet()
    warnings.filterwarnings("ignore", ".*centred: False")  # two maps are left so to see what it costs
    torch.set_num_threads(1)
    plan = QUICK if options.quick else Plan()
    settings = {"threads": 1, "pairs": [" on ".join(pair) for pair in PAIRS[: plan.pairs]], "plan": asdict(plan)}
    folder, command = SCRATCH if options.quick else RESULTS, "python scripts/benchmarks/mapping_study.py"
    report = Report("mapping_study", ABOUT, settings, list(range(plan.draws)), folder, options.fresh, command)
    if not options.finish:
        for source, target in PAIRS[: plan.pairs]:
            report.cell(f"{source} on {target}", lambda s=source, t=target: frozen(s, t, plan))
    report.publish(summary(report.rows))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
