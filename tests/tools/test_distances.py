"""Distances of samples: the reference's vectors (M§C.2), and an independent way to each."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from hf_reprogram.tools.distances import sliced_wasserstein, wasserstein


X, Y = np.array([[0.0, 0], [1, 0], [2, 2]]), np.array([[1.0, 1], [1, 3], [3, 0]])


def test_wasserstein_is_the_cheapest_of_all_permutations() -> None:
    best = min(np.linalg.norm(X - Y[list(order)], axis=1).mean() for order in permutations(range(3)))
    assert wasserstein(X, Y) == pytest.approx(best) == pytest.approx(1.609476, abs=1e-6)


def test_wasserstein_of_samples_of_different_size() -> None:
    assert wasserstein(np.array([[0.0], [1], [3]]), np.array([[1.0], [2]])) == pytest.approx(5 / 6)
    twice = np.concatenate([Y, Y])
    assert wasserstein(X, twice) == pytest.approx(wasserstein(X, Y), abs=1e-6)


@pytest.mark.parametrize(("power", "exact", "drawn"), [(1, 0.842660, 0.842528), (2, 0.976514, 0.977808)])
def test_sliced(power: int, exact: float, drawn: float) -> None:
    value, error = sliced_wasserstein(X, Y, power)
    assert value == pytest.approx(drawn, abs=1e-6)  # the reference's, of the same thousand directions
    assert abs(value - exact) < 3 * error


def test_sliced_by_quadrature_over_angles() -> None:
    angles = np.linspace(0, np.pi, 2001)[:-1]
    ways = [wasserstein_distance(X @ [np.cos(t), np.sin(t)], Y @ [np.cos(t), np.sin(t)]) for t in angles]
    assert np.mean(ways) == pytest.approx(0.842660, abs=1e-5)


def test_sliced_of_samples_of_different_size_is_that_of_quantile_functions() -> None:
    x, y = np.array([[0.0], [1], [3]]), np.array([[1.0], [2]])
    assert sliced_wasserstein(x, y, 1, 10)[0] == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]))


def test_a_sample_lies_at_no_distance_of_itself() -> None:
    assert wasserstein(X, X) == sliced_wasserstein(X, X)[0] == 0.0
