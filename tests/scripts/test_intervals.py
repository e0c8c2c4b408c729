"""Intervals by hand: paired means, the two-stage bootstrap, and what a cell keeps for them."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.intervals import accuracies, bootstrap, collected, gains, kept, paired_gain


def marks(text: str) -> np.ndarray:
    return np.array([mark == "1" for mark in text], dtype=float)


def test_what_a_cell_keeps_comes_back():
    rows = [
        kept("sst2, 4 per class", 0, "ours", [True, True, False, True]),
        kept("sst2, 4 per class", 1, "ours", [True, False, False, True], note="slow"),
        kept("trec, draw of luck", 10, "lora:0.001", [False]),
    ]
    assert (rows[0].task, rows[0].value, rows[0].n) == ("sst2, 4 per class, draw 0", 75.0, 4)
    found = collected(rows)
    assert list(found) == ["sst2, 4 per class", "trec, draw of luck"]
    assert [found["sst2, 4 per class"]["ours"][draw].tolist() for draw in (0, 1)] == [[1, 1, 0, 1], [1, 0, 0, 1]]
    assert found["trec, draw of luck"]["lora:0.001"][10].tolist() == [0]


def test_accuracies_are_means_over_draws_with_the_worst_and_the_best():
    right = {"probe": {0: marks("1000")}, "ours": {1: marks("1111"), 0: marks("1100")}}
    ours, probe = accuracies("t", right)
    assert (ours.method, ours.value, ours.low, ours.high, ours.n) == ("ours", 75.0, 50.0, 100.0, 2)
    assert ours.note == "sd 35.4; draws 50.0, 100.0"  # in the order of the draws
    assert (probe.value, probe.low, probe.high, probe.n) == (25.0, 25.0, 25.0, 1)


def test_gains_compare_only_draws_that_both_methods_have():
    right = {
        "ours": {0: marks("1111"), 1: marks("0000")},
        "probe": {0: marks("1100")},
        "lora": {7: marks("1111")},
    }
    (row,) = gains("t", right)
    assert (row.method, row.metric, row.value, row.n) == ("ours", "accuracy_gain_over:probe", 50.0, 1)


def test_bootstrap_gives_the_interval_of_the_worked_example():
    """M§D.5: a = 1110110111, b = 1010010110, difference .30, interval [0, .6]."""
    difference = marks("1110110111") - marks("1010010110")
    gain, low, high = bootstrap(difference[None])
    assert (gain, low, high) == (pytest.approx(30), pytest.approx(0), pytest.approx(60))


def test_bootstrap_resamples_draws_too():
    agreeing = np.ones((4, 50)) * 0.0
    disagreeing = np.stack([np.ones(50), -np.ones(50), np.ones(50), -np.ones(50)])
    assert bootstrap(agreeing) == (0, 0, 0)
    gain, low, high = bootstrap(disagreeing)  # every row alike: all of the spread comes from the draws
    assert gain == 0 and low == -100 and high == 100


def test_paired_gain_counts_only_rows_on_which_two_differ():
    ours = [True, True, True, False, True, True, False, True, True, True]
    other = [True, False, True, False, False, True, False, True, True, False]
    gain, error = paired_gain(ours, other)
    assert gain == pytest.approx(30)  # 3 of 10 in our favour, none against
    assert error == pytest.approx(100 * (0.3 * 0.7 / 9) ** 0.5)
