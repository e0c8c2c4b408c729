"""The README's words on choosing a model and on asked models follow the results."""

from __future__ import annotations

from typing import Any

from docs_choose import blackbox, chosen


def _found(*rows: tuple[str, str, str, float, str]) -> dict[str, Any]:
    made = [
        {"task": t, "method": m, "metric": k, "value": v, "low": v - 1, "high": v + 1, "n": 3, "note": note}
        for t, m, k, v, note in rows
    ]
    settings = {"plan": {"rows": [256, 100, 400]}}
    return {
        "rows": made,
        "settings": settings,
        "seeds": [0, 1],
        "command": "python x.py",
        "commit": "0123456789abcdef",
    }


def test_predictors_and_the_cost() -> None:
    told = chosen(
        _found(
            ("mean", "said:leep", "spearman", 0.5, ""),
            ("x, draw 0", "said:leep", "spearman", 0.1, ""),
            ("x, draw 0", "a", "reached", 70.0, ""),
            ("x, draw 0", "b", "reached", 71.0, ""),
            ("x, draw 1", "a", "reached", 70.0, ""),
            ("y, draw 0", "a", "reached", 70.0, ""),
            ("minilm-l6 on trec", "select", "seconds", 42.4, "bar <= 60: met"),
        )
    )
    assert "| LEEP | 0.50 | -0.50 to 1.50 |" in told and "0.10" not in told
    assert (
        "2 frozen models, one of them of random weights; 3 samples of 256 rows, of 2 tasks." in told
        and "`select` took 42 s" in told
    )
    assert told.endswith("`python x.py` at 0123456789ab.")


def test_budgets_in_their_order_beside_what_needs_no_search() -> None:
    found = _found(
        ("sst2", "ours:1000", "accuracy", 80.0, ""),
        ("sst2", "ours:100", "accuracy", 79.0, ""),
        ("sst2", "spsa:300", "accuracy", 70.0, ""),
        ("sst2", "map_only", "accuracy", 78.0, ""),
        ("sst2", "ours:1000", "accuracy_gain_over:gradients", -5.0, "bar >= -3: NOT met"),
        ("sst2", "ours:1000", "wanted", 64000.0, ""),
        ("sst2", "ours:1000", "sent", 32000.0, ""),
    )
    told = blackbox([found])
    places = [
        told.index(text) for text in ("100 evaluations", "1,000 evaluations", "spsa, 300", "the ridge map alone")
    ]
    assert places == sorted(places)
    assert "| 80.0 (79.0 to 81.0) | 64,000, 32,000 |" in told
    assert "Below a bar: sst2, gradients. 3 draws (worst to best)" in told


def test_a_task_that_was_measured_again_alone_replaces_what_was_there() -> None:
    whole = _found(("sst2", "ours:300", "accuracy", 70.0, ""), ("ar-scr", "ours:300", "accuracy", 95.0, ""))
    again = _found(("sst2", "ours:1000", "accuracy", 80.0, ""))
    again["machine"], again["command"] = {"accelerator": "GPU"}, "python x.py --only texts"
    told = blackbox([whole, again])
    assert "70.0" not in told and "95.0 (94.0 to 96.0)" in told and "80.0 (79.0 to 81.0)" in told
    assert told.endswith("`python x.py` at 0123456789ab; `python x.py --only texts` at 0123456789ab on GPU.")
    assert "`python x.py` at" not in blackbox([_found(("sst2", "ours:300", "accuracy", 1.0, "")), again])


def test_nothing_where_nothing_was_measured() -> None:
    assert chosen(None) == blackbox([]) == ""
