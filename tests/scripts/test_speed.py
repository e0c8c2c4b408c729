"""The benchmark's bookkeeping (report.py), how it measures (speed.py), and a run of it on one layer of SmolLM2."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from benchmarks import report as reporting
from benchmarks import speed, speed_maps
from benchmarks.floor import Seconds, interleaved, timed
from benchmarks.report import Report, Row, bar, table, write
from benchmarks.speed import for_peft, paired


def report(folder: Path, rounds: int = 1, **kwargs: bool) -> Report:
    return Report("toy", "A toy.", {"rounds": rounds}, [0, 1], folder, command="python toy.py", **kwargs)


def rows(*values: float) -> Callable[[], list[Row]]:
    return lambda: [Row("toy", "ours", "points", value, n=3) for value in values]


def fails() -> list[Row]:
    raise KeyboardInterrupt


# report.py ----------------------------------------------------------------------------------------------------------


def test_finish_writes_rows_and_where_they_come_from(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.cell("first", rows(1.5, 2))
    made.finish()
    found = json.loads((tmp_path / "toy.json").read_text())
    assert found["command"] == "python toy.py"
    assert found["seeds"] == [0, 1]
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["commit"] == reporting.commit()
    row = {"task": "toy", "method": "ours", "metric": "points", "value": 1.5, "low": None, "high": None, "n": 3}
    assert found["rows"][0] == {**row, "note": ""}

    page = (tmp_path / "toy.md").read_text()
    assert "A toy." in page and "python toy.py" in page and "| points |   1.5 |" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.md"]


def test_an_interrupted_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stopped = report(tmp_path)
    stopped.cell("first", rows(1))
    with pytest.raises(KeyboardInterrupt):
        stopped.cell("second", fails)
    again = report(tmp_path)
    assert "going on after 1 finished cells: first" in capsys.readouterr().out
    again.cell("first", fails)  # not measured a second time
    again.cell("second", rows(2))
    assert [row.value for row in again.rows] == [1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_kept_whatever_else_fails(tmp_path: Path, workers: int) -> None:
    made = report(tmp_path)
    jobs = [(f"job {n}", partial(job, n)) for n in (2, 1)]
    made.jobs(jobs, workers)
    assert sorted(row.value for row in made.rows) == [1, 2] and set(report(tmp_path).cells) == {"job 1", "job 2"}
    with pytest.raises(RuntimeError if workers > 1 else ZeroDivisionError):
        made.jobs([("job 0", partial(job, 0)), *jobs, ("job 4", partial(job, 4))], workers)
    assert ("job 4" in made.cells) == (workers > 1)


def job(n: int) -> list[Row]:
    return [Row("toy", "ours", "points", 4 // n * n * n / 4)]


@pytest.mark.parametrize("change", [{"rounds": 2}, {"fresh": True}])
def test_other_settings_and_fresh_start_over(tmp_path: Path, change: dict) -> None:
    report(tmp_path).cell("first", rows(1))
    assert report(tmp_path, **change).rows == []


@pytest.mark.parametrize("fact", ["commit", "source_digest", "versions", "machine"])
def test_other_code_or_another_machine_starts_over(tmp_path: Path, fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report(tmp_path).cell("first", rows(1))
    monkeypatch.setattr(reporting, fact, lambda: "another")
    assert report(tmp_path).rows == []


def test_a_finished_run_is_measured_anew(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.cell("first", rows(1))
    made.finish()
    assert report(tmp_path).rows == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1, "cells": {}}', '{"cells": {}}'])
def test_a_damaged_interrupted_run_starts_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "toy.partial.json").write_text(text)
    assert report(tmp_path).rows == []


def test_an_interrupted_run_leaves_the_results_of_the_last(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.cell("first", rows(1))
    made.finish()
    before = (tmp_path / "toy.json").read_bytes()
    report(tmp_path).cell("first", rows(5))
    assert (tmp_path / "toy.json").read_bytes() == before


def test_infinite_numbers_become_null(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.cell("first", rows(math.nan, math.inf))
    made.finish()
    assert [row["value"] for row in json.loads((tmp_path / "toy.json").read_text())["rows"]] == [None, None]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", "old")
    monkeypatch.setattr(reporting.os, "replace", fails_with_a_full_disk)
    with pytest.raises(OSError):
        write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fails_with_a_full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_table_and_bar() -> None:
    lines = table([Row("a|b", "ours", "ms", 1234.5, n=2000, note=bar(1.06, 1.05))]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "a\\|b" in lines[2] and "1,234" in lines[2] and "2,000" in lines[2] and "bar <= 1.05: NOT met" in lines[2]
    assert bar(1.05, 1.05) == "bar <= 1.05: met"


# speed.py -----------------------------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_turn_around() -> None:
    order: list[str] = []
    taken = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 2)
    assert "".join(order) == "cba" + "abc" + "cba"  # the first is the warm-up
    assert {name: len(runs) for name, runs in taken.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_ratio_is_taken_within_its_round() -> None:
    ours, floor = [Seconds(2, 2), Seconds(33, 30), Seconds(1.2, 1)], [Seconds(2, 1), Seconds(30, 10), Seconds(1, 1)]
    row = paired("t", "ours", "step_ratio_to_floor", ours, floor)
    assert (row.value, row.low, row.high, row.n) == (1.1, 1.0, 1.2, 3)
    assert row.note == "bar <= 1.05: NOT met; by wall time 2.000"


def test_timed_takes_cpu_and_wall_time() -> None:
    taken = timed(lambda: time.sleep(0.05))
    assert taken.wall >= 0.05 > taken.cpu


def test_peft_gets_the_same_rows_and_positions() -> None:
    columns = {
        "input_ids": torch.tensor([[7, 7, 3, 4, 5], [7, 7, 6, 0, 0]]),
        "slot_index": torch.tensor([[0, 1, -1, -1, -1], [0, 1, -1, -1, -1]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    prompted, lora = for_peft(columns, slots=2), for_peft(columns, slots=0)
    assert prompted["input_ids"].tolist() == [[3, 4, 5], [6, 0, 0]]
    assert prompted["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert prompted["labels"].tolist() == [[-100, -100, 5], [6, -100, -100]]
    assert torch.equal(lora["input_ids"], columns["input_ids"])
    assert torch.equal(lora["attention_mask"], columns["attention_mask"])


def test_a_run_on_one_layer(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells, stopped before the last and gone on with; a bar that is not met changes no exit status."""
    monkeypatch.setitem(speed.BARS, "load_ms", 0)
    monkeypatch.setattr(speed, "SHAPES", (speed.Shape(8, 20),))
    monkeypatch.setattr(speed, "STEPS", 2)
    arguments = ["--layers", "1", "--rounds", "1", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(speed, "load_and_switch", lambda *_: fails())
        with pytest.raises(KeyboardInterrupt):
            speed.main(arguments)
    assert not (tmp_path / "speed.json").exists()
    with monkeypatch.context() as patch:
        for cell in ("counts", "steps", "eight_programs"):
            patch.setattr(speed, cell, lambda *_: fails())
        assert speed.main(arguments) == 0

    found = json.loads((tmp_path / "speed.json").read_text())
    metrics = {(row["method"], row["metric"]): row for row in found["rows"]}
    for metric in speed.BARS:
        assert metrics["ours", metric]["note"].startswith("bar <= "), metric
    for method in ("peft_prompt_tuning", "lora"):
        for metric in ("step_ratio_to_floor", "flops_ratio_to_body_forward", "saved_bytes_ratio_to_floor", "load_ms"):
            assert "bar" not in metrics[method, metric]["note"]
    assert metrics["ours", "flops_ratio_to_body_forward"]["value"] <= 2.02
    assert metrics["ours", "saved_bytes_ratio_to_floor"]["value"] <= 1.02
    assert metrics["ours", "vocabulary_sized_tensors"]["value"] == 0
    assert metrics["ours", "load_ms"]["note"].startswith("bar <= 0: NOT met")
    assert found["settings"]["layers"] == 1


def test_a_hundred_fits_beside_one_pass(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_maps, "FITS", 2)
    monkeypatch.setattr(speed_maps, "FIT_ROWS", speed.Shape(12, 20))
    ratio, seconds = speed_maps.mapping_fits(speed.Models(1), 1)
    assert ratio.note.startswith("bar <= 1.1: ") and ratio.value > 0 and seconds.method == "floor"
