"""The study of mappings: draws, that every map is fitted on what one pass gave, what its table says of the bars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import mapping_study
from benchmarks.mapping_study import BALANCED, PAIRS, Plan, drawn, frozen, rho, summary
from benchmarks.report import Row

from hf_reprogram.testing import ROWS, tiny


def test_a_draw_has_so_many_rows_of_each_label() -> None:
    y = np.array([0, 1, 0, 1, 2, 2, 0, 1, 2])
    some = drawn(y, 2, 0)
    assert np.bincount(y[some]).tolist() == [2, 2, 2] and len(set(some.tolist())) == 6
    assert sorted(drawn(y, None, 0).tolist()) == list(range(9))
    assert drawn(y, 2, 0).tolist() != drawn(y, 2, 1).tolist()


def test_rho_of_scores_without_and_with_offsets() -> None:
    z = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert rho(z) == 0.0
    assert rho(z + torch.tensor([0.0, 4.0])) == pytest.approx(2.0)  # means 0 and 4, each output deviates by 2 ** .5


def test_every_map_on_a_tiny_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapping_study, "SCRATCH", tmp_path)
    monkeypatch.setattr(mapping_study, "rows_of", lambda *_: (ROWS * 3, ROWS))
    monkeypatch.setattr(mapping_study.few_shot, "smollm2", lambda: tiny("llama"))
    words = {"words": {"negative": [" bad", " poor"], "positive": [" good"]}}
    task = replace(mapping_study.SST2, untaught="{text} it was{answer}", verbalizer=words)
    monkeypatch.setitem(mapping_study.TEXTS, "sst2", task)
    plan = Plan(shots=(2,), draws=1)
    found = list(frozen("smollm2-135m", "sst2", plan))
    names = {row.method for row in found}
    assert names >= {"random", "frequency", "transport", "prototype, shrunk", "ridge", "residual", "auto", "probe"}
    assert names >= {"verbalizer, calibrated", "verbalizer, word by word", "knowledge", "ridge of the words"}
    assert list(frozen("smollm2-135m", "sst2", plan)) == found  # from scratch
    assert {row.task for row in found} >= {f"smollm2-135m on sst2, {n}, draw 0" for n in ("2", "all")}


def test_the_table_tells_how_far_auto_is_behind() -> None:
    cells = [Row(f"a on b, 4, draw {n}", name, metric, value)
             for n in range(2)
             for metric in (BALANCED, "accuracy")
             for name, value in (("ridge", 80.0 + n), ("auto", 77.0), ("frequency", 60.0), ("probe", 99.0),
                                 ("frequency, not centred", 50.0))]  # fmt: skip
    found = summary(cells)
    assert (found[0].method, found[0].metric, found[0].value) == ("auto", "points_behind_best, balanced_accuracy", 3.5)
    assert "NOT met" in found[0].note and "a on b, 4" in found[0].note
    gain = next(row for row in found if row.metric == "gain_of_centring" and row.task == "all")
    assert gain.value == 10.0


def test_enough_of_everything() -> None:
    sources, targets = zip(*PAIRS, strict=True)
    assert len(set(sources)) >= 4 and len(set(targets)) >= 5 and Plan().draws >= 3
