"""The README's words on a thousand rows follow the results."""

from __future__ import annotations

from typing import Any

from docs_language import language


def _row(task: str, method: str, value: float, metric: str = "accuracy") -> dict[str, Any]:
    return {
        "task": task,
        "method": method,
        "metric": metric,
        "value": value,
        "low": value - 1,
        "high": value + 1,
        "n": 3,
    }


def test_the_table_the_gains_and_what_is_missing() -> None:
    rows = [_row("trec", "ours", 90.0), _row("trec", "probe", 86.0), _row("trec", "lora", 93.0)]
    rows += [
        _row("trec", "ours", 4.0, "accuracy_gain_over:probe"),
        _row("trec", "ours", -3.0, "accuracy_gain_over:lora"),
    ]
    rows += [_row("mean of the tasks", "ours", 4.0, "accuracy_gain_over:probe")]
    settings = {"tasks": {"trec": {}, "mr": {}}}
    told = language({"rows": rows, "settings": settings, "command": "python x.py", "commit": "0123456789abcdef"})
    assert "| linear probe of the same states, no program | 86.0 |" in told
    assert "- TREC, 3 seeds: +4.0 (+3.0 to +5.0) over the probe; -3.0 (-4.0 to -2.0) over LoRA." in told
    assert "Mean gain over the probe: +4.0 (1 tasks)." in told and "not measured yet: MR, five vectors" in told
    assert "| both on a MiniLM of random weights" not in told
    assert told.endswith("`python x.py` at 0123456789ab.")


def test_other_draws_of_a_task_have_a_line_of_their_own() -> None:
    rows = [_row("mpqa", "ours", 86.0), _row("mpqa", "ours", 2.0, "accuracy_gain_over:probe")]
    rows += [_row("mpqa", "ours:mean of the three", 3.0, "accuracy_gain_over:probe")]
    rows += [_row("mean of the tasks", "ours", 2.0, "accuracy_gain_over:probe")]
    made = {"rows": rows, "settings": {"tasks": {"mpqa": {}}}, "command": "python x.py", "commit": "0123456789abcdef"}
    told = language(made, [made | {"command": "python x.py --further mpqa"}])
    line = "MPQA, 3 further draws, after which nothing was chosen: +2.0 (+1.0 to +3.0) over the probe, and +3.0 "
    assert line + "(+2.0 to +4.0) by the mean of the three." in told
    assert told.endswith("`python x.py` at 0123456789ab; `python x.py --further mpqa` at 0123456789ab.")
