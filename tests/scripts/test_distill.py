"""The README's words on instructions in slots follow the results, and those the cells."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks import distill
from benchmarks.distill import TASKS, summary
from benchmarks.report import Row
from docs_distill import distilled


def cells(agreed: tuple[str, str] = ("1111111110", "1111111100")) -> list[Row]:
    """Ten test rows of one task, two seeds: the instruction is right on eight, the slots on eight and on six."""

    def both(name: str, method: str, same: str, right: str) -> list[Row]:
        return [
            Row(name, method, metric, 10 * marks.count("1"), n=10, note=marks)
            for metric, marks in (("agreement_last", same), ("accuracy", right))
        ]

    return [
        *both("trec", "instruction", "1" * 10, "1111111100"),
        *both("trec", "no_instruction", "1100000000", "1111000000"),
        *both("trec", "start", "1111000000", "1111100000"),
        *both("trec, seed 0", "ours", agreed[0], "1111111100"),
        *both("trec, seed 1", "ours", agreed[1], "1111110000"),
        Row("trec, seed 0", "ours", "kl", 0.1, n=24),
        Row("trec, seed 1", "ours", "kl", 0.3, n=24),
        Row("trec", "ours", "time_of_instruction", 0.5, n=5),
        Row("trec", "ours", "positions_saved", 37, note="45 tokens in 8 slots"),
    ]


def test_means_and_bars() -> None:
    rows = {(row.method, row.metric): row for row in summary(cells())}
    assert rows["ours", "agreement_last"].value == 85.0 and "NOT met" in rows["ours", "agreement_last"].note
    assert (rows["ours", "agreement_last"].low, rows["ours", "agreement_last"].high) == (80.0, 90.0)
    assert rows["ours", "accuracy_share"].value == pytest.approx(87.5)  # 70 of 80
    assert rows["ours", "accuracy_gain_over:instruction"].value == pytest.approx(-10.0)
    assert rows["ours", "kl"].value == pytest.approx(0.2)
    assert rows["instruction", "accuracy"].note == ""
    met = {(row.method, row.metric): row for row in summary(cells(("1" * 10, "1" * 10)))}
    assert met["ours", "agreement_last"].note.endswith("bar >= 90: met")


def test_what_the_readme_says() -> None:
    assert distilled(None) == ""
    settings = {"slots": 8, "steps": 80, "batch": 4, "test_rows": 10}
    found = {"rows": [asdict(row) for row in summary(cells())], "settings": settings, "seeds": [0, 1]}
    told = distilled({**found, "command": "python x.py", "commit": "0123456789abcdef"})
    assert "| trec | 40.0 | 85.0 (80.0 to 90.0) | 40.0 | 80.0 | 70.0 | 45 tokens in 8 slots | 0.50 |" in told
    stopped = [row for row in cells() if row.task == "trec"]
    nothing = {**found, "rows": [asdict(row) for row in summary(stopped)], "command": "", "commit": ""}
    assert "| trec |" not in distilled(nothing)
    assert "Bars not met: trec: agreement last; trec: accuracy share. `python x.py` at 0123456789ab." in told


def test_every_label_has_a_word_and_every_instruction_a_place() -> None:
    for task in TASKS:
        assert task.template("{slots:8}").startswith("{slots:8} {text}\n")
        assert task.template("{slots:8}").endswith(":{answer}")
        assert all(word.startswith(" ") for words in task.words.values() for word in words)


@pytest.mark.slow
def test_quick(tmp_path: Path, shared: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "SCRATCH", tmp_path)
    assert distill.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "distill.json").read_text())
    for task in TASKS:
        rows = {(row["method"], row["metric"]): row for row in found["rows"] if row["task"] == task.name}
        assert rows["instruction", "agreement_last"]["value"] == 100.0
        assert rows["ours", "positions_saved"]["value"] >= 32
        assert 0.3 < rows["ours", "time_of_instruction"]["value"] < 1.2
    assert distilled(found).count("tokens in 8 slots") == len(TASKS)
