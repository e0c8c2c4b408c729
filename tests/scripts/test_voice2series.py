"""The series benchmarks: what is left out, what is drawn, what is chosen, and what their tables say."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import voice2series, voice2series_parity
from benchmarks.report import Row

from hf_reprogram.mappings.linear import ridge


def test_a_row_is_scored_by_the_others() -> None:
    """In closed form what refitting without it gives, at the same penalty."""
    draw = np.random.default_rng(0)
    z, y = draw.normal(size=(9, 4)), np.arange(9) % 3
    target = np.eye(3)[y]
    penalty = ridge(z, target)[2]
    for i, scores in enumerate(voice2series.left_out(z, y)):
        keep = np.arange(9) != i
        matrix, bias, *_ = ridge(z[keep], target[keep], [penalty])
        assert scores == pytest.approx(matrix @ z[i] + bias, abs=1e-9)


def test_some_rows_are_the_same_at_every_draw_and_mixed() -> None:
    some = voice2series.few(1000, 300)
    assert (some == voice2series.few(1000, 300)).all() and len(set(some)) == 300
    assert some.min() < 50 and some.max() > 950
    assert voice2series.few(5, 300).tolist() == [0, 1, 2, 3, 4]


def loo(canvases: str, value: float) -> Row:
    return Row("choice, training rows", f"ours:{canvases}; recurrent in 4 parts", "loo_accuracy", value)


def test_the_recipe_is_the_best_on_training_rows_whatever_the_test_says() -> None:
    found = [loo("8 copies", 80.0), loo("8 copies + fm 400 Hz, an octave", 85.0), Row("t", "ours", "accuracy", 99.0)]
    recipe = voice2series.chosen(found)
    assert recipe == (("8 copies", "fm 400 Hz, an octave"), "recurrent in 4 parts")
    assert set(recipe[0]) <= set(voice2series.CANVASES) and recipe[1] in voice2series.READINGS


class TestTable:
    """What voice2series.py says of its cells."""

    @pytest.fixture
    def told(self) -> dict[tuple[str, str], Row]:
        marks = {"ours": (90, 80), "ours:rows of the controls": (86, 80), "classical:1nn": (90, 70)}
        cells = [Row(t, m, "accuracy", v) for m, pair in marks.items() for t, v in zip("ab", pair, strict=True)]
        cells += [Row(t, f"random_source:{s}", "accuracy", 70.0 + s, n=300) for s in range(3) for t in "ab"]
        cells += [Row("a", "paper", "accuracy", 100.0)]
        found = voice2series.drawn(cells)
        assert [row.task for row in found] == sorted(row.task for row in found)
        return {(row.task, row.method, row.metric): row for row in [*voice2series.summary(found), *found]}

    def test_a_bar_is_met(self, told: dict) -> None:
        row = told["mean of 2 tasks", "ours", "accuracy"]
        assert (row.value, row.note) == (85, "bar >= 82: met")

    def test_draws_become_one_row(self, told: dict) -> None:
        row = told["a", "random_source", "accuracy"]
        assert (row.value, row.low, row.high, row.note) == (71, 70, 72, "300 test rows, 3 draws")
        assert ("a", "random_source:0", "accuracy") not in told

    def test_a_control_is_compared_on_the_rows_that_it_heard(self, told: dict) -> None:
        assert told["mean of 2 tasks", "ours", "accuracy_gain_over:random_source"].value == 83 - 71
        gain = told["mean of 2 tasks", "ours", "accuracy_gain_over:classical:1nn"]
        assert (gain.value, gain.note) == (5, "above on 1, level on 1 of 2 tasks")

    def test_what_is_not_known_of_every_task_has_no_mean(self, told: dict) -> None:
        assert ("mean of 2 tasks", "paper", "accuracy") not in told


class TestParity:
    """voice2series_parity.py."""

    def test_a_quarter_of_every_label_is_held_out_and_a_lone_row_never(self) -> None:
        labels = np.array([0] * 8 + [1] * 4 + [2] * 2 + [3])
        learn, choose = voice2series_parity.parts(labels)
        assert sorted([*learn, *choose]) == list(range(15))
        assert np.bincount(labels[choose], minlength=4).tolist() == [2, 1, 1, 0]

    def test_large_tasks_are_heard_fewer_times(self) -> None:
        heard = {count: voice2series_parity.epochs(count) for count in (20, 100, 1000)}
        assert heard == {20: 40, 100: 20, 1000: 4}

    def test_each_method_is_compared_on_the_tasks_that_both_have(self) -> None:
        cells = [Row(t, "ours", "accuracy", v) for t, v in (("a", 90.0), ("b", 70.0))]
        cells += [Row("b", "random_source", "accuracy", 60.0)]
        told = {(row.task, row.method, row.metric): row for row in voice2series_parity.summary(cells)}
        assert told["mean of 2 tasks", "ours", "accuracy"].value == 80
        assert told["mean of 1 tasks", "ours", "accuracy_gain_over:random_source"].value == 10


@pytest.mark.slow
def test_one_task_goes_through(shared, attention_rnn) -> None:
    """Trained, on random weights, untrained, and unfrozen: all on the same test rows."""
    cells = [
        *voice2series_parity.fixed("Coffee"),
        *voice2series_parity.released("Coffee"),
        *voice2series.measured("Coffee", (("8 copies",), "recurrent"), None),
    ]
    found = {row.method: row for row in cells}
    assert found["released_code"].value >= found["released_code:last epoch"].value
    assert found["map_only:fixed placement"].n == found["ours"].n == 28
