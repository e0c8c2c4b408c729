"""Metric modules: offline, equal to what they are named for, usable by Trainer; and the diagram of reliability."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.metrics import calibration
from hf_reprogram.testing import ROWS, build, program_config
from hf_reprogram.tools import metrics
from hf_reprogram.tools.distances import sliced_wasserstein, together


LOGITS = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 0.5]])
TRUTH = np.array([0, 0, 1, 1])


def test_each_loads_by_its_path_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    for name in metrics.names():
        module = evaluate.load(str(Path(metrics.__file__).parent / name))
        assert module.description.endswith(".") and name.replace("_", "") == type(module).__name__.lower()


def test_they_are_what_their_names_say() -> None:
    found = hr.compute_metrics("accuracy", "macro_f1", "balanced_accuracy", "calibration_error")(
        SimpleNamespace(predictions=LOGITS, label_ids=TRUTH)
    )
    assert found["accuracy"] == 0.75 == found["balanced_accuracy"]  # one of the second label's two rows is wrong
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    chances = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert found["calibration_error"] == pytest.approx(calibration(chances, TRUTH)[0], abs=1e-6)


def test_calibration_by_hand() -> None:
    """Bins (0.6, 0.8] and (0.8, 1]: three rows at 0.7, of which two are right, and one at 0.9, right."""
    chances = np.array([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7], [0.9, 0.1]])
    error, table = calibration(chances, np.array([0, 1, 1, 0]), bins=5)
    np.testing.assert_allclose(table[3:], [[3, 0.7, 2 / 3], [1, 0.9, 1.0]])
    assert error == pytest.approx((3 * (0.7 - 2 / 3) + 0.1) / 4) and np.isnan(table[0, 1])
    assert calibration(np.array([[1.0, 0.0]]), np.array([0]))[0] == 0.0  # a probability of 1 has a bin


def test_alignment_sees_no_scale_and_no_offset_of_both_together() -> None:
    metric = hr.load_metric("alignment")
    x, y = np.random.default_rng(0).normal(size=(2, 20, 3))

    def far(a: np.ndarray, b: np.ndarray) -> float:
        return metric.compute(predictions=a.tolist(), references=b.tolist())["alignment"]

    assert far(x, x) == pytest.approx(0.0, abs=1e-6)
    assert far(50 * x + 3, 50 * y + 3) == pytest.approx(far(x, y), rel=1e-4)
    assert far(x, y + 5) > far(x, y)


def test_alignment_of_sets_of_unequal_size() -> None:
    metric = hr.load_metric("alignment")
    x, y = np.random.default_rng(0).normal(size=(10, 3)), np.random.default_rng(1).normal(size=(12, 3))
    whole = metric.compute(predictions=x, references=y)["alignment"]
    assert whole == pytest.approx(sliced_wasserstein(*together(x, y))[0], rel=1e-5)
    metric.add_batch(predictions=x[:7], references=y[:3])
    metric.add_batch(predictions=x[7:], references=y[3:])
    assert metric.compute()["alignment"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("alignment", ([[1.0, 2.0]], [[1.0]]), r"references\): 1 numbers a row, and the predictions have 2"),
        ("alignment", ([1, 0], [0, 1]), r"alignment\(predictions\): an array of shape \(2,\).*\(rows, numbers\)"),
        ("calibration_error", ([1, 0], [0, 1]), r"shape \(2,\).*Fix: give probabilities"),
        ("calibration_error", (LOGITS, TRUTH), "numbers from 0 to 3.*Fix: give probabilities"),
        ("calibration_error", ([[0.5, 0.5], [1.0]], [0, 1]), "rows of different length.*Fix: give probabilities"),
        ("calibration_error", ([[0.5, np.nan]], [0]), "NaN.*Fix: give probabilities"),
    ],
)
def test_what_is_no_such_input(name: str, given: tuple[Any, Any], says: str) -> None:
    metric = hr.load_metric(name)
    with pytest.raises(DataError, match=says):
        metric.compute(predictions=given[0], references=given[1])
    chances = [[0.5, 0.5], [0.25, 0.75]]  # and it goes on
    assert metric.compute(predictions=chances, references=chances if name == "alignment" else [0, 1])[name] >= 0


def test_an_unknown_name_lists_the_choices_once() -> None:
    with pytest.raises(ConfigError) as error:
        hr.load_metric("nosuch")
    assert str(error.value).count("macro_f1") == 1


@pytest.mark.parametrize(
    ("given", "says"), [(("acuracy",), "acuracy"), (("alignment",), "alignment"), ((), "none")], ids=str
)
def test_names_that_are_none(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*balanced_accuracy"):
        hr.compute_metrics(*given)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        hr.load_metric("acuracy")


@pytest.mark.parametrize(
    ("predictions", "labels", "says"),
    [
        ([[3.2], [1.1]], [3.0, 0.0], r"predictions\): an array of shape \(2, 1\).*leave compute_metrics out"),
        ([[3.2], [1.1]], [3, 0], r"predictions\): an array of shape \(2, 1\)"),
        ([3.2, 1.1], [3, 0], r"predictions\): an array of shape \(2,\)"),
        (np.zeros((2, 5, 3)), [[1, 2], [1, 2]], r"predictions\): an array of shape \(2, 5, 3\)"),
        (([[0.0, 1.0]], [[0.0]]), [1], r"predictions\): a tuple of 2"),
        (LOGITS, TRUTH.astype(float), r"label_ids\): an array of shape \(4,\) of float64.*each of 4 rows"),
        (LOGITS, np.eye(2, dtype=int)[TRUTH], r"label_ids\): an array of shape \(4, 2\)"),
        (LOGITS, TRUTH[:3], r"label_ids\): an array of shape \(3,\)"),
        (LOGITS, [0, 0, 1, 2], r"label_ids\)\[3\]: 2.*from 0 to 1"),
        (LOGITS, [0, -100, 1, 1], r"label_ids\)\[1\]: -100"),
    ],
)
def test_what_is_no_single_label_is_no_accuracy(predictions: Any, labels: Any, says: str) -> None:
    """The first place of a regression's one output is 0 for every row."""
    given = predictions if isinstance(predictions, tuple) else np.asarray(predictions)
    with pytest.raises(DataError, match=says):
        hr.compute_metrics("accuracy")(SimpleNamespace(predictions=given, label_ids=np.asarray(labels)))


def test_the_diagram_shows_each_bin() -> None:
    model = build(program_config("prompt"), "llama")
    axes = hr.plot_reliability(model, ROWS, bins=5).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert len(heights) == 5 and "calibration error" in axes.get_title() and "6 rows" in axes.get_title()
    logits = np.array([row["score"] for row in model.predict(ROWS)])
    filled = np.unique(np.minimum((logits * 5).astype(int), 4))
    assert {i for i, height in enumerate(heights) if height > 0} <= set(filled)
    with pytest.raises(UsageError, match="regression"):
        hr.plot_reliability(SimpleNamespace(problem_type=lambda: "regression"), ROWS)


class TestDiversity:
    """Of answers that were drawn for one row."""

    def test_by_hand(self) -> None:
        """AC and AG agree in one place of two, AC and GT in none, AG and GT in none: 1 - (0.5 + 0 + 0) / 3."""
        assert hr.diversity(["AC", "AG", "GT"]) == pytest.approx(1 - 0.5 / 3)
        assert hr.diversity(["AC", "AG", "GT"], itself=True) == pytest.approx(1 - (2 * 0.5 + 3) / 9)
        assert hr.diversity([["good", "bad"], ["good", "fine"]]) == 0.5
        assert hr.diversity(["AC"]) == hr.diversity(["", ""]) == 0.0

    def test_places_of_answers_of_different_length_cannot_be_compared(self) -> None:
        with pytest.raises(DataError, match=r"samples\[1\]: 1 symbols, and samples\[0\] has 2. Expected answers"):
            hr.diversity(["AC", "A"])


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "balanced_accuracy"])
@pytest.mark.parametrize("said", [[0.9, 0.2], [], [[1], [0]]])
def test_scores_are_no_label_ids(name: str, said: list[Any]) -> None:
    with pytest.raises(DataError, match=rf"{name}\(predictions\)") as told:
        hr.load_metric(name).compute(predictions=said, references=[1, 0][: len(said)])
    assert ("argmax" in str(told.value)) == (said == [0.9, 0.2] or not said)


def test_a_label_beyond_the_probabilities() -> None:
    with pytest.raises(DataError, match="ids from 0 to 5"):
        hr.load_metric("calibration_error").compute(predictions=[[0.9, 0.1], [0.7, 0.3]], references=[0, 5])


def test_no_bins() -> None:
    model = build(program_config("prompt"), "llama")
    with pytest.raises(UsageError, match=r"plot_reliability\(bins\)"):
        hr.plot_reliability(model, ROWS, bins=0)
