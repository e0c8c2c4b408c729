"""Scores before training: the vectors of M§C.4 on fixtures F1 and F2, an independent formula beside each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import mutual_info_score

from hf_reprogram.errors import DataError
from hf_reprogram.tools.transferability import gbc, h_score, leep, logme, nce, standardised, transrate
from tests.mappings.test_labels import Y, Z


F2 = np.array([[1, 0], [2, 1], [3, 0], [0, 2], [1, 3], [0, 4], [4, 4], [5, 3]], dtype=float)
Y2 = np.array([0, 0, 0, 1, 1, 1, 2, 2])
WIDE = np.random.default_rng(0).normal(size=(12, 30))
FEW = np.repeat([0, 1, 2], 4)


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

    def test_is_the_largest_evidence(self) -> None:
        """Found by Nelder and Mead on the density of a Gaussian, which knows no singular values."""
        y = (Y2 == 1).astype(float)

        def minus(logs: np.ndarray) -> float:
            a, b = np.exp(logs)
            covariance = np.eye(len(y)) / b + F2 @ F2.T / a
            return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance) / len(y)

        best = -minimize(minus, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).fun
        parts = [logme(F2, (c == Y2).astype(int), 2) for c in range(3)]
        other = [logme(F2, (c != Y2).astype(int), 2) for c in range(3)]
        assert parts == pytest.approx(other)  # two labels and their mirror image
        assert best == pytest.approx(-0.734084, abs=1e-5)

    def test_fewer_rows_than_features(self) -> None:
        """The released code counts all dimensions there (thuml/LogME issue 23): the evidence is too large."""
        y = np.eye(3)[FEW][:, 0]

        def minus(logs: np.ndarray) -> float:
            a, b = np.exp(logs)
            covariance = np.eye(len(y)) / b + WIDE @ WIDE.T / a
            return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance) / len(y)

        found = [minimize(minus, [s, t], method="Nelder-Mead").fun for s in (0.0, 4.0) for t in (0.0, 3.0)]
        one = logme(WIDE, FEW, 3)
        assert one <= -min(found) + 0.2  # the mean over three labels of like evidence


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
