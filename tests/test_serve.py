"""Predict, evaluate, score on raw rows."""

from __future__ import annotations

import pytest
import torch

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LANGUAGE_MODELS, ROWS, build, logits_of, program_config, tiny


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_predict_gives_labels_with_probabilities(family: str) -> None:
    model = build(program_config("prompt"), family)
    found = model.predict([row["text"] for row in ROWS])
    shares = logits_of(model, ROWS).softmax(1)
    names = model.label_names()
    assert [row["label"] for row in found] == [names[i] for i in shares.argmax(1)]
    assert [row["score"] for row in found] == pytest.approx(shares.max(1).values.tolist(), abs=1e-5)


def test_predict_one_text_all_labels() -> None:
    model = build(program_config("prompt"), "llama")
    (row,) = model.predict("this film was so good", top_k=None)
    assert {r["label"] for r in row} == {"negative", "positive"}
    assert sum(r["score"] for r in row) == pytest.approx(1)


def test_predict_does_not_care_for_labels_it_finds() -> None:
    model = build(program_config("prompt"), "llama")
    assert model.predict([{"text": "good", "label": 7}])[0]["label"] in model.label_names()


def test_rows_of_different_programs() -> None:
    model = build(program_config("prompt"), "llama")
    words = {"x": [" like"], "y": [" love"], "z": [" hate"]}
    model.add_adapter("other", ReprogramConfig(program="prompt", mapping={"type": "verbalizer", "words": words}))
    first, second = model.predict([{"text": "good"}, {"text": "good", "adapter": "other"}], top_k=None)
    assert {r["label"] for r in first} == {"negative", "positive"}
    assert {r["label"] for r in second} == set(words)
    assert sum(r["score"] for r in second) == pytest.approx(1)


def test_evaluate_by_hand() -> None:
    model = build(program_config("prompt"), "llama")
    result, guess = model.evaluate(ROWS), logits_of(model, ROWS)
    truth = torch.tensor([model.label_names().index(row["label"]) for row in ROWS])
    assert result["accuracy"] == pytest.approx((guess.argmax(1) == truth).float().mean().item())
    assert result["loss"] == pytest.approx(torch.nn.functional.cross_entropy(guess, truth).item(), abs=1e-5)
    assert result["majority"] == 0.5 and result["n"] == 6


def test_evaluate_leaves_the_model_as_it_was() -> None:
    model = build(program_config("prompt"), "llama").train()
    model.evaluate(ROWS)
    assert model.training and model.active_programs()[0].training
    assert not model.backbone.base.training


def test_evaluate_needs_labels() -> None:
    model = build(program_config("prompt"), "llama")
    with pytest.raises(DataError, match=r"rows\[0\].*label"):
        model.evaluate(["good"])


@pytest.mark.parametrize("rows", [[], 7, [7], [{"text": " "}], [{"txt": "good"}], [{"text": None}]])
def test_bad_rows(rows: object) -> None:
    with pytest.raises(DataError, match="rows"):
        build(program_config("prompt"), "llama").predict(rows)


def test_without_a_tokenizer_rows_cannot_be_laid_out() -> None:
    base, _ = tiny("llama")
    model = get_reprogram_model(base, ReprogramConfig(program="prompt"))
    with pytest.raises(UsageError, match="processing_class=tokenizer"):
        model.generate("good")


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_disabled_program_has_no_labels_to_give(family: str) -> None:
    model = build(program_config("prompt"), family)
    with model.disable_adapter():
        for call in (lambda: model.predict("good"), lambda: model.evaluate(ROWS), lambda: model.score("good")):
            with pytest.raises(UsageError, match="disable_adapter"):
                call()
    assert model.predict("good")


def test_a_dataset_brings_the_names_of_its_labels() -> None:
    import datasets

    names = ["positive", "negative"]  # the other way round than the model's
    rows = datasets.Dataset.from_list(ROWS).cast_column("label", datasets.ClassLabel(names=names))
    model = build(program_config("prompt"), "llama")
    assert model.evaluate(rows) == model.evaluate(ROWS)
