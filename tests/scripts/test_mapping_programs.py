"""The study of maps under programs: each map with and without one, and what its table says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks import mapping_programs, mapping_study
from benchmarks.mapping_programs import PAIRS, WITH, WITHOUT, Plan, cell, summary
from benchmarks.mapping_study import BALANCED
from benchmarks.report import Row

from hf_reprogram.testing import ROWS, tiny


def test_every_map_with_and_without_a_program_on_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_study, "rows_of", lambda *_: (ROWS * 3, ROWS))
    monkeypatch.setattr(mapping_study.few_shot, "smollm2", lambda: tiny("llama"))
    words = {"words": {"negative": [" bad", " poor"], "positive": [" good"]}}
    task = replace(mapping_study.SST2, untaught="{text} it was{answer}", verbalizer=words, start=(" so",),
                   template="{prompt:2} {text} it was{answer}")  # fmt: skip
    monkeypatch.setitem(mapping_study.TEXTS, "sst2", task)
    found = list(cell("smollm2-135m", "sst2", 0, Plan(shots=2, steps=1)))
    names = {way: {row.method for row in found if f", {way}, draw 0" in row.task} for way in (WITHOUT, WITH)}
    assert names[WITH] - names[WITHOUT] == {"the map it was trained under"}
    assert names[WITHOUT] >= {"ridge", "auto", "frequency", "residual", "verbalizer, word by word"}
    values = {way: [r.value for r in found if f", {way}," in r.task and r.method == "ridge"] for way in names}
    assert values[WITH] != [] and values[WITHOUT] != []


def test_what_the_program_adds_and_how_far_auto_is_behind_each_way() -> None:
    cells = [Row(f"smollm2-135m on b, {way}, draw {n}", name, BALANCED, value + n)
             for n in range(2)
             for way, name, value in ((WITHOUT, "ridge", 70.0), (WITHOUT, "auto", 72.0), (WITH, "ridge", 80.0),
                                      (WITH, "auto", 76.0), (WITH, "the map it was trained under", 78.0))]  # fmt: skip
    found = summary(cells)
    assert [(row.task, row.value) for row in found[:2]] == [(f"all, {WITHOUT}", 0.0), (f"all, {WITH}", 4.0)]
    assert {row.method: row.value for row in found if row.metric == "gain_of_program"} == {"ridge": 10.0, "auto": 4.0}
    assert any(row.method == "the map it was trained under" and row.value == 78.5 and row.n == 2 for row in found)


def test_whoever_gives_no_gradient_is_left_out() -> None:
    assert {source for source, _ in PAIRS} == {"attention-rnn", "moonshine-tiny", "smollm2-135m"}
    assert mapping_programs.Plan().draws >= 3
