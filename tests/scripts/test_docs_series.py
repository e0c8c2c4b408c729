"""The README's words on series follow the results."""

from __future__ import annotations

from typing import Any

import pytest
from docs_series import series


def results(rocket: tuple[float, float]) -> dict[str, Any]:
    low, high = rocket
    means = {"ours": 83.0, "classical:1nn": 73.5, "classical:minirocket": 84.8, "random_source": 80.0}
    gains = {"classical:1nn": (9.5, 5, 14), "classical:minirocket": (-1.8, low, high), "random_source": (3, 1, 5)}
    rows = [
        {"task": "mean of 27 tasks", "method": m, "metric": "accuracy", "value": v, "note": ""}
        for m, v in means.items()
    ]
    for method, (value, low, high) in gains.items():
        row = {"task": "mean of 27 tasks", "method": "ours", "metric": f"accuracy_gain_over:{method}"}
        rows.append({**row, "value": value, "low": low, "high": high, "note": "above on 22, level on 0 of 27 tasks"})
    choices = {"ours:8 copies; recurrent": 80.0, "ours:8 copies + fm; recurrent in 4 parts": 85.0}
    rows += [{"task": "choice", "method": m, "metric": "loo_accuracy", "value": v} for m, v in choices.items()]
    return {"rows": rows, "command": "python x.py", "commit": "0123456789abcdef"}


def test_recipe_and_what_pretraining_adds_are_told() -> None:
    told = series(results((-3.0, 0.5)), None)
    assert "8 copies + fm; a ridge map of what the spotter hears (recurrent in 4 parts), each with its map" in told
    assert "has 83.0 in the mean" in told and "1-NN has 73.5 (above on 22" in told
    assert "What pretraining adds: +3.0 (+1.0 to +5.0) over the same on random weights (80.0)." in told
    assert "`python x.py` at 0123456789ab." in told and "not the network" not in told


def test_that_the_spectrogram_alone_does_as_well_is_told() -> None:
    found = results((-3.0, 0.5))
    row = {"task": "mean of 27 tasks", "value": 83.0, "low": -0.7, "high": 1.2}
    alone = "map_only:spectrogram"
    found["rows"] += [{**row, "method": alone, "metric": "accuracy"}]
    found["rows"] += [{**row, "method": "ours", "metric": f"accuracy_gain_over:{alone}"}]
    assert "that do it, not the network." in series(found, None)


@pytest.mark.parametrize(("interval", "advised"), [((-3.0, -0.5), True), ((-3.0, 0.5), False)])
def test_what_is_better_is_advised(interval: tuple[float, float], advised: bool) -> None:
    assert ("take that" in series(results(interval), None)) == advised


def test_the_trained_program_stands_with_the_number_of_its_tasks() -> None:
    rows = [
        {"task": "mean of 9 tasks", "method": "ours", "metric": "accuracy", "value": 77.25, "n": 9},
        {"task": "mean of 6 tasks", "method": "released_code", "metric": "accuracy", "value": 60.0, "n": 6},
        {"task": "mean of 6 tasks", "method": "ours", "metric": "accuracy_gain_over:released_code", "value": 9.0}
        | {"low": -1.0, "high": 19.0},
    ]
    told = series(results((-3, 1)), {"rows": rows, "command": "python y.py", "commit": "fedcba9876543210"})
    assert "| preset `voice2series`: a learned sound, the network frozen | 9 | 77.2 |  |" in told
    assert "best epoch on the test rows | 6 | 60.0 | +9.0 (-1.0 to +19.0) |" in told
    assert "random weights |" not in told
    assert "stopped for time" in told
