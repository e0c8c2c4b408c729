"""The benchmark of black boxes: rows of a draw, that every cell runs, and what its table says of the bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmarks import blackbox
from benchmarks.blackbox import Plan, Rows, cells, maps, searched, summary, text_rows
from benchmarks.few_shot_tasks import DATA, SST2
from benchmarks.intervals import kept
from benchmarks.report import Row

from hf_reprogram.testing import ROWS, tiny
from hf_reprogram.tools.blackbox.optimisers import SEARCHES


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_rows_to_choose_by_are_others() -> None:
    rows = text_rows("sst2", 1, Plan(test=20))
    learn, choose = ({row["text"] for row in part} for part in (rows.learn, rows.choose))
    assert len(rows.learn) == len(rows.choose) == 32 and not learn & choose
    assert [row["label"] for row in rows.learn].count(SST2.labels[0]) == 16


def test_a_search_of_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "asked", lambda: tiny("llama"))
    words = {"negative": [" bad"], "positive": [" good"]}
    task = blackbox.replace(
        SST2, template="{prompt:2} {text} it was{answer}", start=(" so",), verbalizer={"words": words}
    )
    monkeypatch.setattr(blackbox, "SST2", task)
    rows = Rows(ROWS * 2, ROWS, ROWS)
    found: dict[str, Any] = {row.metric: row for row in searched("sst2", rows, 0, "one_plus_one", 6)}
    assert found["accuracy"].method == "one_plus_one:6" and "map " in found["accuracy"].note
    assert found["evaluations"].value == 6 and found["sent"].value == found["wanted"].value
    assert {type(options).__name__ for options in maps("sst2")} == {"AutoConfig", "LinearConfig", "VerbalizerConfig"}


def test_every_search_has_a_cell_and_the_bars_come_first() -> None:
    titles = [title for title, *_ in cells(Plan(seeds=1))]
    assert titles[:4] == [f"sst2, seed 0: {which}" for which in ("alone", "gradients", "ours, 100", "ours, 300")]
    dear = [title for title in titles if title.endswith(" 1000")]  # a run that is stopped has all draws of the others
    assert titles.index(dear[0]) > titles.index("ar-scr, seed 0: ours, 300") and len(dear) == 3
    assert {title.rpartition(": ")[2] for title in titles} >= set(SEARCHES) - {"cma"}


def test_bars() -> None:
    marks = {"ours:1000": 80, "ours:100": 70, "map_only": 75, "calibrated": 78, "gradients": 82}
    rows = [kept("sst2", 0, method, (np.arange(100) < n).tolist()) for method, n in marks.items()]
    rows.append(Row("sst2, draw 0", "ours:1000", "sent", 500.0))
    found = {(row.method, row.metric): row for row in summary(rows)}
    assert "met" in found["ours:1000", "accuracy_gain_over:map_only"].note
    assert "bar >= -3: met" in found["ours:1000", "accuracy_gain_over:gradients"].note
    assert ("ours:100", "accuracy_gain_over:map_only") not in found  # the largest budget is judged
    assert found["ours:1000", "sent"].value == 500.0
