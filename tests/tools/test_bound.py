"""The bound that holds, and the counterexample to the one that was printed (M§C.1)."""

from __future__ import annotations

import numpy as np
import pytest

from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.tools.bound import bound, risks
from hf_reprogram.tools.distances import wasserstein


SURE = np.array([[5.0, -5.0], [-5.0, 5.0]])


def test_the_published_lemma_is_false() -> None:
    """E|f(x) - f(x')| <= 2 sqrt(K) W_1 of independent x, x' of one distribution: .70704 against zero."""
    p = np.exp(SURE) / np.exp(SURE).sum(1, keepdims=True)
    left = np.mean([np.linalg.norm(a - b) for a in p for b in p])
    assert left == pytest.approx(0.70704, abs=1e-5) and wasserstein(SURE, SURE) == 0.0


def test_swapped_classes_have_equal_marginals_and_the_worst_risk() -> None:
    y = np.array([0, 1])
    found = bound(SURE[::-1], y, SURE, y, [0, 1])
    assert wasserstein(SURE[::-1], SURE) == 0.0  # so the published theorem promises the source risk
    assert risks(SURE, y).mean() == pytest.approx(6.4e-5, abs=1e-6)
    assert found.risk == pytest.approx(1.41415, abs=1e-5) and found.error == 1.0
    assert found.value >= found.risk


def test_it_holds_whatever_the_scores() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        k, n = rng.integers(2, 5), 12
        y = np.repeat(np.arange(k), n)
        scale = rng.choice([0.3, 1.0, 4.0])
        source, target = (scale * rng.normal(size=(k * n, k)) + scale * np.eye(k)[y] for _ in range(2))
        stands_for = rng.permutation(k).tolist()
        found = bound(target, y, source, y, stands_for)
        assert found.risk <= found.value + 1e-9
        assert found.error <= np.sqrt(2) * found.risk + 1e-9


def test_a_program_that_makes_rows_look_like_the_source_has_the_source_s_risk() -> None:
    y = np.repeat([0, 1], 5)
    source = np.random.default_rng(0).normal(size=(10, 3)) + 4 * np.eye(3)[y]
    found = bound(source, y, source, y, [0, 1])
    assert found.distance == (0.0, 0.0)
    assert found.value == pytest.approx(found.risk) == pytest.approx(risks(source, y).mean())
    assert found.share == (0.5, 0.5)


def test_what_is_refused() -> None:
    y = np.array([0, 1])
    with pytest.raises(ConfigError, match="a source class of its own"):
        bound(SURE, y, SURE, y, [0, 0])
    with pytest.raises(DataError, match="no row of source class 1"):
        bound(SURE, y, SURE, np.array([0, 0]), [0, 1])
    with pytest.raises(DataError, match="no row of label 1"):
        bound(SURE, np.array([0, 0]), SURE, y, [0, 1])
