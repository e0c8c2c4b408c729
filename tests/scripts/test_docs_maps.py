"""The README's words on mappings follow the results."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.mapping_figure import draw
from docs_maps import gains, maps, under_programs


def _found() -> dict[str, Any]:
    rows = [("all", "auto", "points_behind_best, balanced_accuracy", 0.5, "bar: x; worst on crepe on b, 4")]
    for target, rho in (("a", 0.2), ("b", 4.0)):
        pair = f"minilm, anchors on {target}"
        rows.append((pair, "scores", "rho", rho, ""))
        for shots in ("4", "16", "all"):
            rows += [(f"{pair}, {shots}", "ridge", "balanced_accuracy", 80.0 + rho, ""),
                     (f"{pair}, {shots}", "frequency", "balanced_accuracy", 50.0, ""),
                     (f"{pair}, {shots}", "frequency", "gain_of_centring", 10 * rho, "")]  # fmt: skip
    rows += [("minilm, anchors on a, 4", "semantic", "balanced_accuracy", 12.0, "")]
    return _results(rows)


def _results(rows: list[tuple[str, str, str, float, str]]) -> dict[str, Any]:
    made = [{"task": t, "method": m, "metric": k, "value": v, "low": v - 1, "high": v + 1, "n": 3, "note": note}
            for t, m, k, v, note in rows]  # fmt: skip
    settings = {"plan": {"shots": 16}}
    return {
        "rows": made,
        "settings": settings,
        "seeds": [0, 1, 2],
        "command": "python x.py",
        "commit": "0123456789abcdef",
    }


def test_a_row_for_each_map_and_a_mark_where_targets_are_left_out() -> None:
    told = maps(_found())
    assert "| ridge | 82.1 | 82.1 | 82.1 |" in told and "| frequency | 50.0 | 50.0 | 50.0 |" in told
    assert told.index("| ridge |") < told.index("| frequency |")
    assert "| semantic | 12.0* |  |  |" in told
    assert "`auto` is 0.5 points behind" in told and "by balanced accuracy; at most 1.5 (crepe on b, 4)" in told
    assert "3 draws each." in told and told.endswith("`python x.py` at 0123456789ab.")


def test_centring_where_offsets_are_small_and_large() -> None:
    assert "+2.0 (+2.0 to +2.0, 3 cells) points" in maps(_found())
    assert "+40.0 (+40.0 to +40.0, 3 cells) where more" in maps(_found())
    assert gains(_found())[0] == ("minilm, anchors", "frequency", 0.2, 2.0)


def test_maps_with_and_without_a_program() -> None:
    rows = [(f"moonshine-tiny on {target}, {way}", name, "balanced_accuracy", value, "")
            for target, more in (("a", 0.0), ("b", 2.0))
            for way, name, value in (("as it is", "ridge", 60 + more), ("under a program", "ridge", 70 + more),
                                     ("under a program", "the map it was trained under", 65 + more))]  # fmt: skip
    told = under_programs(
        _results([*rows, ("all, under a program", "auto", "points_behind_best, balanced_accuracy", 4.0, "x")])
    )
    assert "| ridge | 61.0, 71.0 |" in told and "| the map it was trained under | 66.0 |" in told
    assert "Of the model under a program: `auto` is 4.0 points behind" in told
    assert "3 draws each; `python x.py` at 0123456789ab." in told


def test_nothing_where_nothing_was_measured() -> None:
    assert maps(None) == under_programs(None) == ""


def test_the_figure_has_a_point_for_each_gain() -> None:
    pytest.importorskip("matplotlib")
    table, points = draw(_found()).axes[:2]
    assert sum(len(each.get_offsets()) for each in points.collections) == 6
    assert "82" in {text.get_text() for text in table.texts}
