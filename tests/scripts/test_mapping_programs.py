"""The study of maps under programs: each map with and without one, and what its table says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from benchmarks import mapping_programs, mapping_study
from benchmarks.mapping_programs import CHOSEN, PAIRS, WITH, WITHOUT, Plan, Watch, cell, held_out, program_of, summary
from benchmarks.mapping_study import BALANCED
from benchmarks.report import Row

from hf_reprogram import ReprogramConfig, get_reprogram_model
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
    assert names[WITH] == names[WITHOUT] >= {"ridge", "auto", "frequency", "residual", "verbalizer, word by word"}
    assert [(row.metric, row.value) for row in found if row.method == "program"] in ([(CHOSEN, 0.0)], [(CHOSEN, 1.0)])
    values = {way: [r.value for r in found if f", {way}," in r.task and r.method == "ridge"] for way in names}
    assert values[WITH] != [] and values[WITHOUT] != []


def test_what_the_program_adds_and_how_far_auto_is_behind_each_way() -> None:
    cells = [Row(f"smollm2-135m on b, {way}, draw {n}", name, BALANCED, value + n)
             for n in range(2)
             for way, name, value in ((WITHOUT, "ridge", 70.0), (WITHOUT, "auto", 72.0), (WITH, "ridge", 80.0),
                                      (WITH, "auto", 76.0))]  # fmt: skip
    cells += [Row(f"smollm2-135m on b, draw {n}", "program", CHOSEN, float(n)) for n in range(2)]
    found = summary(cells)
    assert [(row.task, row.value) for row in found[:2]] == [(f"all, {WITHOUT}", 0.0), (f"all, {WITH}", 4.0)]
    assert {row.method: row.value for row in found if row.metric == "gain_of_program"} == {"ridge": 10.0, "auto": 4.0}
    assert [(row.task, row.value) for row in found if row.metric == CHOSEN] == [("all", 0.5), ("smollm2-135m", 0.5)]


def test_the_best_state_on_the_rows_held_out_is_kept_and_the_earlier_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_reprogram_model(tiny("llama")[0], ReprogramConfig(program="prompt", labels=["a", "b"]),
                                processing_class=tiny("llama")[1])  # fmt: skip
    marks = iter([0.5, 0.7, 0.7, 0.6])
    watch = Watch(model, [], [], every=2)
    monkeypatch.setattr(watch, "judged", lambda: next(marks))
    watch.on_train_begin(None, None, None)
    for step in range(1, 7):
        with torch.no_grad():
            next(program_of(model).parameters()).fill_(float(step))
        watch.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert (watch.mark, watch.step) == (0.7, 2)
    assert all(bool((values == 2).all()) for values in watch.state.values())


def test_every_fourth_row_of_a_label_is_held_out() -> None:
    rows = [{"label": label, "n": n} for n in range(8) for label in "ab"]
    learn, held = held_out(rows)
    assert [row["n"] for row in held] == [3, 7, 3, 7] and len(learn) == 12
    assert held_out(rows[:2]) == (rows[:2], rows[:2])  # too few to hold one out


def test_whoever_gives_no_gradient_is_left_out() -> None:
    assert {source for source, _ in PAIRS} == {"attention-rnn", "moonshine-tiny", "smollm2-135m"}
    assert mapping_programs.Plan().draws >= 3
