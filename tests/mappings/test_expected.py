"""`expected`: the expected value of number words and its line by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.batch import Readout
from hf_reprogram.errors import ConfigError
from hf_reprogram.testing import ROWS, tiny


VALUES = {" bad": 1.0, " good": 3.0}
RATED = [{"text": row["text"], "label": float(i)} for i, row in enumerate(ROWS)]


def model_of(**options: Any) -> hr.ReprogramModel:
    base, tokenizer = tiny("llama")
    mapping = hr.ExpectedConfig(values=VALUES, **options)
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(template="{prompt:2} {text}{answer}"), mapping=mapping, labels=["stars"]
    )
    return hr.get_reprogram_model(base, config, tokenizer)


def test_the_mean_of_what_words_stand_for() -> None:
    """p = (.75, .25): 0.75 * 1 + 0.25 * 3."""
    mapping = model_of(line=False).active_mapping()
    found = mapping(Readout(torch.tensor([[3.0, 1.0]]).log()))
    assert found.shape == (1, 1) and found.item() == pytest.approx(1.5)
    assert not mapping.needs_fit


def test_its_line_is_that_of_least_squares() -> None:
    mapping, rng = model_of().active_mapping(), np.random.default_rng(0)
    z, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    mapping.fit(torch.from_numpy(z), torch.from_numpy(y).unsqueeze(1))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    slope, start = np.polyfit(p @ [1.0, 3.0], y, 1)
    assert (mapping.slope.item(), mapping.start.item()) == pytest.approx((slope, start), rel=1e-5)


def test_a_value_that_never_moves_gives_the_mean() -> None:
    mapping = model_of().active_mapping()
    mapping.fit(torch.zeros(4, 2), torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert mapping(Readout(torch.zeros(1, 2))).item() == pytest.approx(3.0)


def test_answers_within_what_the_words_stand_for() -> None:
    mapping = model_of(clip=True).active_mapping()
    mapping.fit(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.0, -9.0, 9.0]))
    assert mapping(Readout(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))).flatten().tolist() == [1.0, 3.0]


def test_end_to_end(tmp_path: Path) -> None:
    model = model_of()
    model.fit_mapping(RATED)
    found = model.predict(ROWS[:2])
    model.save_pretrained(tmp_path)
    again = hr.AutoReprogramModel.from_pretrained(
        tmp_path, base_model=tiny("llama")[0], processing_class=tiny("llama")[1]
    )
    assert [a["score"] for a in again.predict(ROWS[:2])] == pytest.approx([a["score"] for a in found])
    assert found[0]["label"] == "stars"
    assert model.evaluate(RATED)["mse"] <= np.var([row["label"] for row in RATED]) + 1e-6
    assert model.explain()["mapping"]["values"] == VALUES


@pytest.mark.parametrize(
    ("values", "labels", "says"),
    [
        ({" bad": 1.0}, ["stars"], "at least two numbers"),
        ({" bad": 1.0, " good": 1.0}, ["stars"], "at least two numbers"),
        (VALUES, ["a", "b"], "the name of one number"),
        (VALUES, None, "the name of one number"),
        ({" bad": 1.0, " unheardof": 2.0}, ["stars"], r"values\[' unheardof'\]"),
    ],
)
def test_what_is_refused(values: dict, labels: list[str] | None, says: str) -> None:
    base, tokenizer = tiny("llama")
    with pytest.raises(ConfigError, match=says):
        config = hr.ReprogramConfig(
            program=hr.PromptConfig(template="{prompt:2} {text}{answer}"),
            mapping=hr.ExpectedConfig(values=values),
            labels=labels,
        )
        hr.get_reprogram_model(base, config, tokenizer)
