"""Scores before training: the vectors of M§C.4 on fixtures F1 and F2, an independent formula beside each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import mutual_info_score

from hf_reprogram.errors import DataError
from hf_reprogram.tools.transferability import _evidence, gbc, h_score, leep, logme, nce, standardised, transrate
from tests.mappings.test_labels import Y, Z


F2 = np.array([[1, 0], [2, 1], [3, 0], [0, 2], [1, 3], [0, 4], [4, 4], [5, 3]], dtype=float)
Y2 = np.array([0, 0, 0, 1, 1, 1, 2, 2])
WIDE = np.random.default_rng(0).normal(size=(12, 30))
FEW = np.repeat([0, 1, 2], 4)


def evidence(features: np.ndarray, y: np.ndarray) -> float:
    """LogME of one column of targets."""
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    return _evidence(u, np.square(s), y)


class TestOfTheModelsOwnClasses:
    def test_leep(self) -> None:
        assert leep(Z, Y, 3) == pytest.approx(-0.793922, abs=1e-6)

    def test_leep_of_one_hot_answers_is_nce(self) -> None:
        certain = 800.0 * np.eye(5)[Z.argmax(1)]
        assert leep(certain, Y, 3) == pytest.approx(nce(Z, Y, 3), abs=1e-9)

    def test_nce_is_mutual_information_less_the_entropy_of_the_labels(self) -> None:
        share = np.bincount(Y) / len(Y)
        entropy = -(share * np.log(share)).sum()
        assert nce(Z, Y, 3) == pytest.approx(-0.666090, abs=1e-6)
        assert nce(Z, Y, 3) == pytest.approx(mutual_info_score(Z.argmax(1), Y) - entropy)

    def test_a_source_class_of_no_mass_makes_no_nan(self) -> None:
        """tllib's `leep` divides by the mass of every source class."""
        z = np.concatenate([Z, np.full((10, 1), -1e9)], 1)
        assert leep(z, Y, 3) == pytest.approx(leep(Z, Y, 3))


class TestHScore:
    def test_of_the_reference(self) -> None:
        assert h_score(F2, Y2, 3, shrink=False) == pytest.approx(1.693161, abs=1e-6)

    def test_is_the_trace_of_two_projections(self) -> None:
        centred, member = F2 - F2.mean(0), np.eye(3)[Y2]
        on_features = centred @ np.linalg.pinv(centred)
        on_labels = member @ np.linalg.pinv(member)
        assert h_score(F2, Y2, 3, shrink=False) == pytest.approx(np.trace(on_features @ on_labels))

    def test_more_features_than_rows_say_nothing_without_shrinking(self) -> None:
        """Noise has classes - 1: the most there is."""
        assert h_score(WIDE, FEW, 3, shrink=False) == pytest.approx(2.0)
        assert not h_score(WIDE, FEW, 3) > 1.0

    def test_too_few_rows(self) -> None:
        assert np.isnan(h_score(F2, Y2, 3))

    def test_shrinking_less_and_less_gives_the_plain_one(self) -> None:
        rng = np.random.default_rng(0)
        y = np.repeat([0, 1, 2], 3000)
        f = rng.normal(size=(9000, 4)) + np.array([[0, 0, 0, 0], [2, 0, 0, 0], [0, 3, 0, 0]])[y]
        assert h_score(f, y, 3) == pytest.approx(h_score(f, y, 3, shrink=False), rel=0.02)


class TestLogME:
    def test_of_the_reference(self) -> None:
        assert logme(F2, Y2, 3) == pytest.approx(-0.686051, abs=2e-6)

    def test_of_each_label(self) -> None:
        found = [evidence(F2, column) for column in np.eye(3)[Y2].T]
        assert found == pytest.approx([-0.928524, -0.734084, -0.395546], abs=2e-6)

    def test_of_centred_features_and_labels(self) -> None:
        """Which stands for an intercept, and is another number than that of the reference as printed."""
        member = np.eye(3)[Y2] - np.eye(3)[Y2].mean(0)
        found = [evidence(F2 - F2.mean(0), column) for column in member.T]
        assert np.mean(found) == pytest.approx(-0.212498, abs=1e-6)

    @pytest.mark.parametrize(
        ("features", "labels", "label"), [(F2, Y2, 1), (WIDE, FEW, 0), (WIDE, FEW, 1), (WIDE, FEW, 2)]
    )
    def test_is_the_largest_evidence(self, features: np.ndarray, labels: np.ndarray, label: int) -> None:
        """Found by Nelder and Mead on the density of a Gaussian, which knows no singular values.

        With fewer rows than features the released code counts all dimensions (thuml/LogME issue 23): by half of
        log a too much for each that is not there.
        """
        y = (labels == label).astype(float)

        def minus(logs: np.ndarray) -> float:
            a, b = np.exp(np.minimum(logs, 40.0))  # a useless feature drives a to infinity
            covariance = np.eye(len(y)) / b + features @ features.T / a
            return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance) / len(y)

        close = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2000}
        starts = [(s, t) for s in (0.0, 4.0) for t in (0.0, 3.0)]
        best = -min(minimize(minus, start, method="Nelder-Mead", options=close).fun for start in starts)
        assert evidence(features, y) == pytest.approx(best, abs=2e-5)

    def test_is_the_mean_over_labels(self) -> None:
        assert logme(WIDE, FEW, 3) == pytest.approx(np.mean([evidence(WIDE, c) for c in np.eye(3)[FEW].T]))
        parts = [logme(F2, (c == Y2).astype(int), 2) for c in range(3)]
        assert parts == pytest.approx(
            [logme(F2, (c != Y2).astype(int), 2) for c in range(3)]
        )  # a label and its mirror


class TestRates:
    @pytest.mark.parametrize(("scale", "value"), [(1e-4, 0.486447), (1.0, 0.192851)])
    def test_transrate(self, scale: float, value: float) -> None:
        assert transrate(F2, Y2, 3, scale) == pytest.approx(value, abs=1e-6)

    def test_a_larger_model_wins_for_no_reason_unless_it_is_standardised(self) -> None:
        assert transrate(10 * F2, Y2, 3) != pytest.approx(transrate(F2, Y2, 3))
        assert transrate(standardised(10 * F2), Y2, 3) == pytest.approx(transrate(standardised(F2), Y2, 3))

    @pytest.mark.parametrize(("spherical", "value"), [(True, -0.132784), (False, -0.109196)])
    def test_gbc(self, spherical: bool, value: float) -> None:
        assert gbc(F2, Y2, 3, spherical) == pytest.approx(value, abs=1e-6)

    def test_gbc_s_pairs_are_the_overlap_of_densities(self) -> None:
        """Integral of sqrt(p q) of N(0, 1) and N(1, 4), once for each order."""
        overlap = quad(lambda x: np.sqrt(norm.pdf(x) * norm.pdf(x, 1, 2)), -20, 20)[0]
        f = np.array([[-1.0], [1.0], [-1.0], [3.0]])  # means 0 and 1, variances 1 and 4
        assert gbc(f, np.array([0, 0, 1, 1]), 2) == pytest.approx(-2 * overlap, abs=1e-6)
        assert overlap == pytest.approx(0.850805, abs=1e-6)


@pytest.mark.parametrize("score", [leep, nce, h_score, logme, transrate, gbc])
def test_what_is_refused(score: object) -> None:
    with pytest.raises(DataError, match=r"rows\[3\].*NaN"):
        score(np.where(np.arange(10)[:, None] == 3, np.nan, Z), Y, 3)
    with pytest.raises(DataError, match=r"no row of \[3\]"):
        score(Z, Y, 4)
    with pytest.raises(DataError, match="a label from 0 to 1 for each row"):
        score(Z, Y, 2)
