"""The study of `select`: that a cell runs and holds what is compared, and that correlations are those of the ranks."""

from __future__ import annotations

import random
from typing import Any

import pytest
from benchmarks import select_study
from benchmarks.report import Row
from benchmarks.select_study import TARGETS, Plan, Target, draw, summary

from hf_reprogram.testing import ROWS, tiny


def rows_of(task: str, said: list[float], reached: list[float]) -> list[Row]:
    made = []
    for i, (s, r) in enumerate(zip(said, reached, strict=True)):
        made += [Row(task, f"m{i}", "said:accuracy", s), Row(task, f"m{i}", "said:parameters", float(10 - i))]
        made += [Row(task, f"m{i}", "reached", r)]
    return made


def test_correlations_by_hand() -> None:
    cells = rows_of("a", [1, 2, 3, 4], [10, 20, 30, 40]) + rows_of("b", [1, 2, 3, 4], [10, 20, 40, 30])
    found = {(row.task, row.method): row.value for row in summary(cells) if row.metric == "spearman"}
    assert found["a", "said:accuracy"] == pytest.approx(1.0)
    assert found["b", "said:accuracy"] == pytest.approx(0.8)  # 1 - 6 (0 + 0 + 1 + 1) / (4 * 15)
    assert found["mean", "said:accuracy"] == pytest.approx(0.9)
    assert found["a", "said:parameters"] == pytest.approx(-1.0)
    first = summary(cells)[0]
    assert first.method == "said:accuracy" and "met" in first.note and first.low <= 0.9 <= first.high


def test_draws_of_a_target_are_no_targets_of_their_own() -> None:
    cells = rows_of("a, draw 0", [1, 2, 3, 4], [10, 20, 30, 40]) + rows_of("a, draw 1", [1, 2, 3, 4], [40, 30, 20, 10])
    cells += rows_of("b, draw 0", [1, 2, 3, 4], [10, 20, 30, 40])
    first = next(row for row in summary(cells) if row.task == "mean" and row.method == "said:accuracy")
    assert first.value == pytest.approx(0.5) and first.n == 2  # a: (1 - 1) / 2; b: 1


def test_a_model_that_says_the_same_for_all_rows_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "w", "label": str(n % 2)} for n in range(60)]
    monkeypatch.setattr(select_study, "read", lambda *_: [dict(row) for row in rows])
    monkeypatch.setattr(select_study, "load", lambda name: tiny(name))
    found = list(select_study.cell("bert-encoder", Target("x"), 0, Plan((16, 8, 8), seeds=1, epochs=1)))
    assert [row.metric for row in found] == ["left_out"] and "the same for all rows" in found[0].note
    assert summary([*rows_of("a", [1, 2, 3, 4], [1, 2, 3, 4]), *found])[-1] == found[0]


def test_a_cell_says_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "text": f"{row['text']} {word}"} for word in ("good", "bad", "day", "book") for row in ROWS] * 2
    random.Random(0).shuffle(rows)
    monkeypatch.setattr(select_study, "read", lambda *_: [dict(row) for row in rows])
    monkeypatch.setattr(select_study, "load", lambda name: tiny(name))
    plan = Plan((16, 8, 8), seeds=1, epochs=1)
    found: dict[str, Any] = {row.metric: row for row in select_study.cell("bert-encoder", Target("x"), 0, plan)}
    assert {"said:accuracy", "said:logme", "said:tangent", "said:parameters", "probe", "taught", "reached"} <= set(
        found
    )
    assert found["reached"].value in (found["probe"].value, found["taught"].value) and found["reached"].n == 8
    assert 0 <= found["said:accuracy"].value <= 1


def test_texts_are_cut_and_seeds_judge_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": " ".join(["w"] * n), "label": str(n % 2)} for n in range(2, 60)]
    monkeypatch.setattr(select_study, "read", lambda *_: [dict(row) for row in rows])
    plan = Plan((20, 10, 15))
    first, second = draw(Target("x", words=5), 0, plan), draw(Target("x", words=5), 1, plan)
    assert first.test == second.test and first.train != second.train
    assert max(len(row["text"].split()) for row in first.train) == 5


def test_enough_models_and_targets() -> None:
    assert len(select_study.MODELS) >= 6 and len(TARGETS) >= 6
