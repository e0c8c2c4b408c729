"""`auto`: the map that cross-validation finds best, and ridge where nothing is clearly better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.batch import Readout
from hf_reprogram.errors import ConfigError
from hf_reprogram.mappings.auto import candidates, choose, judged, ridged, summed
from hf_reprogram.testing import LABELS, ROWS, tiny
from tests.mappings.test_labels import MEMBER, Z
from tests.mappings.test_scores import fitted, model_of


WORDS: dict[str, Any] = {"negative": " bad", "positive": " good"}


def test_folds_judge_rows_that_a_map_has_not_seen() -> None:
    """Noise of as many outputs as rows: what remembers its rows has them all right, and none of the others."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(60, 60)), np.tile([0, 1], 30)
    found = judged({"ridge": lambda z, member: ridged(z, member)}, z, np.eye(2)[y], 5)
    assert 0.3 < found["ridge"].mean() < 0.7
    matrix, bias = ridged(z, np.eye(2)[y])
    assert ((z @ matrix.T + bias).argmax(1) == y).mean() > 0.7


def test_one_row_of_a_label_makes_no_folds() -> None:
    assert judged({"ridge": ridged}, Z[[0, 4, 7]], np.eye(3), 5) == {}
    assert fitted(Z[[0, 4, 7]], np.arange(3), type="auto").explain()["chosen"] == "ridge"


def test_what_is_clearly_better_is_taken() -> None:
    """One source label tells all, among forty that tell nothing, on few rows: counting finds it."""
    rng = np.random.default_rng(1)
    y = np.tile([0, 1], 12)
    z = rng.normal(size=(24, 5)) * 0.01
    z[np.arange(24), y] += 5.0
    z[:, 2:] *= 300.0
    mapping = fitted(z, y, type="auto", labels=["a", "b"], centred=False)
    found = mapping.explain()
    best = max(found["accuracy"].values())
    assert found["accuracy"][found["chosen"]] >= best - 0.1
    assert (mapping(Readout(torch.from_numpy(z))).argmax(1).numpy() == y).mean() > 0.9


def test_the_fit_is_that_of_the_map_it_chose() -> None:
    mapping = fitted(type="auto")
    name = mapping.explain()["chosen"]
    assert name in mapping.explain()["accuracy"]
    matrix, bias = candidates(mapping.options, np.arange(5), 3)[name](Z - Z.mean(0), MEMBER)
    np.testing.assert_allclose(mapping.matrix.numpy(), matrix, atol=1e-6)
    np.testing.assert_allclose(mapping.bias.numpy(), bias, atol=1e-6)


def test_ties_and_luck_leave_the_usual_map() -> None:
    """Four rows of four are one chance in sixteen, five of five one in thirty-two."""
    same, rows = np.array([1.0, 0.0, 1.0]), np.ones(5)
    assert choose({"ridge": same, "residual": same}, "residual") == "residual"
    assert choose({"ridge": rows[:4], "words": rows[:4] * 0}, "words") == "words"
    assert choose({"ridge": rows, "words": rows * 0}, "words") == "ridge"
    split = np.array([0.0, 0, 0, 0, 0, 0, 1])
    assert choose({"ridge": 1 - split, "words": split}, "words") == "words"  # 6 of 7: one chance in sixteen


def test_a_sum_of_maps_by_hand() -> None:
    """Scores +-1 and +-10 of the same rows weigh alike, and what is the same for all labels has no weight."""
    z = np.array([[1.0, 0.0], [-1.0, 0.0]])
    first = np.array([[1.0, 0.0], [-1.0, 0.0]])

    def one(matrix: np.ndarray, bias: float) -> Any:
        return lambda z, member: (matrix, np.full(2, bias))

    matrix, bias = summed([one(first, 0.0), one(10 * first, 70.0)])(z, MEMBER)
    np.testing.assert_allclose(matrix, 2 * first)
    np.testing.assert_allclose(bias, [7.0, 7.0])


def test_more_labels_than_source_labels() -> None:
    """No source label for each: ridge, counts and prototypes do without."""
    mapping = fitted(type="auto", sources=2)
    assert not {"residual", "frequency"} & set(mapping.explain()["accuracy"])


@pytest.mark.parametrize("rows", [2, 3])
def test_two_rows_of_a_label_leave_one_in_a_fold(rows: int) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), rows)
    mapping = fitted(rng.normal(size=(len(y), 5)) + 5 * np.eye(5)[y], y, type="auto")
    assert mapping.explain()["chosen"] and mapping.matrix.isfinite().all()


def test_words_alone_where_there_is_one_row() -> None:
    model = model_of("llama", labels=LABELS, type="auto", words=WORDS)
    model.fit_mapping(ROWS[:2])
    found = model.explain()["mapping"]
    assert found["chosen"] == "words"
    ids, kept = model.peft_config["default"].mapping.ids, model.active_mapping().indices.tolist()
    wanted = np.eye(len(kept))[[kept.index(i) for (i,) in ids]]
    np.testing.assert_allclose(model.active_mapping().matrix.numpy(), wanted)


def test_several_words_of_a_label_are_their_mean() -> None:
    model = model_of("llama", labels=LABELS, type="auto", words={"negative": " bad", "positive": [" good", " great"]})
    model.fit_mapping(ROWS[:2])
    matrix, kept = model.active_mapping().matrix, model.active_mapping().indices.tolist()
    bad, good = model.peft_config["default"].mapping.ids
    assert matrix[0, kept.index(bad[0])] == 1.0 and [matrix[1, kept.index(i)] for i in good] == [0.5, 0.5]
    assert matrix.sum(1).tolist() == [1.0, 1.0]


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    model = model_of("llama", labels=LABELS, type="auto", sources=5)
    model.fit_mapping(ROWS)
    model.save_pretrained(tmp_path)
    again = hr.AutoReprogramModel.from_pretrained(
        tmp_path, base_model=tiny("llama")[0], processing_class=tiny("llama")[1]
    )
    texts: list[Any] = [row["text"] for row in ROWS]
    assert [a["label"] for a in again.predict(texts)] == [a["label"] for a in model.predict(texts)]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="AutoConfig.words.*a word of its own"):
        model_of("llama", labels=LABELS, type="auto", words={"negative": " bad", "positive": " bad"})
    with pytest.raises(ConfigError, match="AutoConfig.folds"):
        model_of(type="auto", folds=1)
