"""The benchmark of strings in other languages: its rows, its simple models, a cell on a tiny base, its bars."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import intervals, sequences, sequences_data
from benchmarks.intervals import kept
from benchmarks.sequences import Plan, cell, summary
from benchmarks.sequences_data import TASKS, Task, kept_positions, one_hot, rows, simple

from hf_reprogram.testing import tiny


PLAN = Plan(rounds=1, steps=2, batch=4, parts=2, validation=8, test=8, seeds=1)
ANTIBODY = TASKS[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Antibodies of five acids, of which the second and fourth tell the class; the third is the same in all train."""
    texts = [f"A{a}C{b}{'DE'[i % 2]}" for i in range(4) for a, b in (("K", "L"), ("M", "L"), ("K", "N"), ("M", "N"))]
    folder = tmp_path / ANTIBODY.name
    folder.mkdir()
    (folder / "classes.json").write_text('["low", "high"]')
    for split in ("train", "validation", "test"):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": t, "label": int(t[1] == "K" and t[3] == "L")}) + "\n" for t in texts)
    return tmp_path


def test_an_antibody_is_cut_to_what_differs(data: Path) -> None:
    assert kept_positions(ANTIBODY, data) == (1, 3, 4)
    found = rows(ANTIBODY, "train", data=data)
    assert len(found) == 16 and {len(row["text"]) for row in found} == {3}
    assert all((row["label"] == "high") == row["text"].startswith("KL") for row in found)


def test_a_draw_is_the_seed_s_and_a_part_of_the_whole(data: Path) -> None:
    whole, tenth = (rows(ANTIBODY, "train", 3, share, data=data) for share in (1.0, 0.25))
    assert tenth == whole[:4] and rows(ANTIBODY, "train", 4, data=data) != whole


def test_dna_and_peptides_are_cut_to_their_middle_and_their_front() -> None:
    assert kept_positions(TASKS[2]) == tuple(range(10, 50))
    assert kept_positions(TASKS[0]) == tuple(range(100))


def test_simple_models_learn_what_is_simple(data: Path) -> None:
    given = [rows(ANTIBODY, split, data=data) for split in ("train", "validation", "test")]
    found = simple(ANTIBODY, *given)
    assert found["classical:one_hot"][0].mean() == found["classical:ngrams"][0].mean() == 1.0
    assert found["majority"][0].mean() == 0.75


def test_rows_fall_into_parts_label_by_label() -> None:
    y = np.array([0] * 4 + [1] * 3 + [2])
    found = sequences._parts(y, 2, np.random.default_rng(0))
    assert np.bincount(found[y == 0]).tolist() == [2, 2] and np.bincount(found[y == 1]).tolist() == [2, 1]
    assert found[-1] == -1  # a part without it would leave the label to no map


def test_one_hot_by_hand() -> None:
    assert one_hot(["AB", "?"], "AB", 2).tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]


def test_a_cell_has_every_method_and_its_base_stays(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny("bert")
    plan = Plan(**{**vars(PLAN), "data": data})
    monkeypatch.setattr(sequences, "load", lambda name: ([source[0]], source[1]))
    monkeypatch.setattr(sequences, "labels", lambda task, data=data: sequences_data.labels(task, data))
    task = Task(ANTIBODY.name, ANTIBODY.symbols, None, aligned=True)
    found = [row for method in sequences.METHODS for row in cell("tiny", task, 100, 0, plan, method)]
    assert [row.method for row in found] == ["map_only", "ours:free", "ours:sparse", "random_source", "probe"]
    assert all(row.task == "antibody_affinity, 100 %, tiny, draw 0" and row.n == 8 for row in found)
    assert "640 numbers; validation by round" in found[1].note  # 20 acids, width 32
    assert "200 numbers" in found[2].note
    assert all(p.requires_grad for p in source[0].parameters())  # given back as it came


def test_a_cut_source_has_the_depth_that_validation_rows_like(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tokenizer = tiny("bert")
    dead = copy.deepcopy(base)  # reads every row alike
    dead.config.num_hidden_layers = 1
    dead.bert.encoder.layer = dead.bert.encoder.layer[:1]
    with torch.no_grad():
        dead.bert.encoder.layer[0].output.LayerNorm.weight.zero_()
    monkeypatch.setattr(sequences, "labels", lambda task, data=data: sequences_data.labels(task, data))
    task, plan = Task(ANTIBODY.name, ANTIBODY.symbols, None, aligned=True), replace(PLAN, data=data, validation=16)
    for bases in ([base, dead], [dead, base]):
        found = sequences.fitted((bases, tokenizer), task, "free", plan.split(task, 100, 0), plan, seed=0)
        assert found.model.backbone.base is base and found.note.startswith("2 layer(s), ")
        found.model.unload()


def marked(task: str, method: str, share: float, draws: int = 3) -> list:
    marks = np.arange(200) < 200 * share
    return [kept(task, draw, method, marks) for draw in range(draws)]


def test_bars_are_those_of_the_issue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "bootstrap", lambda differences: (100 * differences.mean(), 0.0, 0.0))
    found = []
    for task, best, ours, sparse in (("peptide_amp", 0.9, 0.895, 0.88), ("dna_splice", 0.95, 0.89, 0.885)):
        found += marked(f"{task}, 10 %", "classical:one_hot", best) + marked(f"{task}, 10 %", "majority", 0.5)
        found += marked(f"{task}, 10 %, antiberty", "ours:free", ours)
        found += marked(f"{task}, 10 %, antiberty", "ours:sparse", sparse, draws=2 if task == "dna_splice" else 3)
    notes = {(r.task.split(",")[0], r.method, r.metric): r.note for r in summary(found, Plan())}
    near = "accuracy_gain_over:classical:one_hot (best simple)"
    assert notes["peptide_amp", "ours:free", near].endswith("bar >= -1: met")
    assert notes["peptide_amp", "ours:sparse", near].endswith("bar >= -1: NOT met")
    assert "bar" not in notes["dna_splice", "ours:free", near]
    assert notes["dna_splice", "ours:free", "accuracy"].endswith("bar >= 88: met")
    assert notes["dna_splice", "ours:sparse", "accuracy"].endswith("bar >= 88: met on 2 of 3 seeds")
    assert notes["dna_splice", "ours:sparse", "accuracy_gain_over:ours:free"].endswith(">= -1: met on 2 of 3 seeds")
    assert "bar" not in notes["peptide_amp", "classical:one_hot", "accuracy"]
