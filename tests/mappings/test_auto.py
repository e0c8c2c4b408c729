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
from hf_reprogram.mappings.auto import candidates, choose, judged, picked, ridged
from hf_reprogram.testing import LABELS, ROWS, tiny
from tests.mappings.test_labels import MEMBER, Z
from tests.mappings.test_scores import fitted, model_of


WORDS = {"negative": " bad", "positive": " good"}


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
    matrix, bias = candidates(mapping.options, np.arange(5))[name](Z - Z.mean(0), MEMBER)
    np.testing.assert_allclose(mapping.matrix.numpy(), matrix, atol=1e-6)
    np.testing.assert_allclose(mapping.bias.numpy(), bias, atol=1e-6)


def test_ties_are_ridge_s() -> None:
    same = np.array([1.0, 0.0, 1.0])
    assert choose({"ridge": same, "residual": same}, "ridge") == "ridge"


def test_words_alone_where_there_is_one_row() -> None:
    model = model_of("llama", labels=LABELS, type="auto", words=WORDS)
    model.fit_mapping(ROWS[:2])
    found = model.explain()["mapping"]
    assert found["chosen"] == "words"
    ids, kept = model.peft_config["default"].mapping.ids, model.active_mapping().indices.tolist()
    wanted = picked(np.array([kept.index(i) for i in ids]), len(kept))[0]
    np.testing.assert_allclose(model.active_mapping().matrix.numpy(), wanted)


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
