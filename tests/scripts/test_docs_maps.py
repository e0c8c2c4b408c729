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


def _under(source: str, base: float) -> list[tuple[str, str, str, float, str]]:
    rows = [(f"{source} on {target}, {way}", name, "balanced_accuracy", base + value + more, "")
            for target, more in (("a", 0.0), ("b, ten words", 2.0))
            for way, name, value in (("as it is", "ridge", 0), ("as it is", "auto", 0),
                                     ("under a program", "ridge", 10), ("under a program", "auto", 6))]  # fmt: skip
    rows += [(source, name, "gain_of_program", value, "") for name, value in (("ridge", 10.0), ("auto", 6.0))]
    return [
        *rows,
        (source, "program", "trained_rather_than_start", 2 / 3, ""),
        ("all", "auto", "gain_of_program", 1, ""),
    ]


def test_maps_with_and_without_a_program() -> None:
    all_sources = _results(_under("moonshine-tiny", 60.0) + _under("smollm2-135m", 30.0))
    told = under_programs([all_sources, _results(_under("moonshine-tiny", 70.0)) | {"command": "python y.py"}])
    assert "| 16 rows a class: without a program, with one | Moonshine, first token, 3 draws | SmolLM2, next" in told
    assert "| ridge | 71.0, 81.0 | 31.0, 41.0 |" in told, "what was measured alone stands in the place of the other"
    assert "- Of the model under a program: `auto` is 4.0 points behind the best map of each of 4 cells" in told
    assert (
        "adds +10.0 (+9.0 to +11.0) under ridge, +6.0 (+5.0 to +7.0) under auto, over targets; the rows held" in told
    )
    assert "chose one that had learned in 2 of 3 draws." in told
    assert told.endswith("`python x.py` at 0123456789ab; `python y.py` at 0123456789ab.")


def test_nothing_where_nothing_was_measured() -> None:
    assert maps(None) == under_programs([]) == ""


def test_the_figure_has_a_point_for_each_gain() -> None:
    pytest.importorskip("matplotlib")
    table, points = draw(_found()).axes[:2]
    assert sum(len(each.get_offsets()) for each in points.collections) == 6
    assert "82" in {text.get_text() for text in table.texts}
