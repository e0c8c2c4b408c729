"""`knowledge` (KPT): which words stay, what is subtracted, how words are weighed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.batch import Readout
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.mappings.knowledge import readable
from hf_reprogram.testing import ROWS, tiny


WORDS = {"negative": [" bad", " poor", " terrible"], "positive": [" good", " love"]}


def model_of(words: dict[str, list[str]] | None = None, **options: Any) -> hr.ReprogramModel:
    base, tokenizer = tiny("llama")
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(template="{prompt:2} {text}{answer}"),
        mapping=hr.KnowledgeConfig(words=words or WORDS, **options),
    )
    return hr.get_reprogram_model(base, config, tokenizer)


def prior_of(mapping: Any, mine: list[float], others: float = 0.0) -> torch.Tensor:
    """(1, vocabulary) logits with those of the words as given."""
    values = torch.full((1, 10_000), others)
    values[0, list(mapping.ids)] = torch.tensor(mine)
    return values


def test_a_score_is_the_mean_above_the_prior() -> None:
    mapping = model_of(dropped=0.0).active_mapping()
    mapping.fit(prior_of(mapping, [1.0, 2.0, 3.0, 0.0, -1.0]), None)
    scores = mapping(Readout(torch.tensor([[2.0, 2.0, 6.0, 5.0, 0.0]])))
    assert scores[0].tolist() == pytest.approx([(1 + 0 + 3) / 3, (5 + 1) / 2])


def test_words_that_are_rare_here_go_and_the_first_stays() -> None:
    """Half of the vocabulary is likelier than -1: words below that are left out, but not the first of a class."""
    mapping = model_of(dropped=0.5).active_mapping()
    mapping.fit(prior_of(mapping, [-1.0, 2.0, -1.0, -1.0, -1.0]), None)
    assert mapping.kept.tolist() == [1, 1, 0, 1, 0]
    assert mapping.shares().tolist() == pytest.approx([0.5, 0.5, 0.0, 1.0, 0.0])
    found = mapping.explain()["words"]
    assert found["negative"] == {"words": {" bad": 0.5, " poor": 0.5}, "left out": [" terrible"]}


def test_weights_are_a_softmax_within_the_class() -> None:
    mapping = model_of(dropped=0.0).active_mapping()
    mapping.fit(prior_of(mapping, [0.0] * 5), None)
    with torch.no_grad():
        mapping.weight.copy_(torch.tensor([0.0, 0.0, 2.0, 1.0, 1.0]))
    e = torch.tensor([0.0, 0.0, 2.0]).softmax(0)
    scores = mapping(Readout(torch.tensor([[1.0, 1.0, 4.0, 3.0, 5.0]])))
    assert scores[0].tolist() == pytest.approx([float(e @ torch.tensor([1.0, 1.0, 4.0])), 4.0])


def test_no_gradient_reaches_a_word_that_is_left_out() -> None:
    mapping = model_of(dropped=0.5).active_mapping()
    mapping.fit(prior_of(mapping, [-1.0, 2.0, -1.0, -1.0, -1.0]), None)
    mapping.loss(mapping(Readout(torch.randn(4, 5))), torch.tensor([0, 1, 0, 1])).backward()
    grad = mapping.weight.grad
    assert grad.isfinite().all() and grad[[2, 4]].tolist() == [0.0, 0.0]


def test_words_of_several_classes_and_of_several_tokens_go() -> None:
    tokenizer = tiny("llama")[1]
    words = {"a": [" bad", " good", " unheardof", " bad", " poor"], "b": [" good", " love", " poor"]}
    kept, ids = readable(tokenizer, words)
    assert kept == {"a": [" bad"], "b": [" good", " love"]}  # " good" is the first of b, " poor" stands with both
    assert [len(v) for v in ids.values()] == [1, 2]


def test_rows_need_no_labels_and_the_program_learns() -> None:
    model = model_of(dropped=0.0)
    model.fit_mapping([row["text"] for row in ROWS])
    assert model.active_mapping().reading().ids == model.active_mapping().ids
    model(**model.collator()(ROWS)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.learning_rates()["mapping"] == 0.05


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"a": [" bad"]}, "at least two classes"),
        ({"a": [" bad"], "b": []}, "at least two classes"),
        ({"a": [" bad"], "b": [" bad", " good"]}, "a first word of its own"),
        ({"a": [" unheardof"], "b": [" bad"]}, "unheardof"),
    ],
)
def test_what_is_refused(words: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model_of(words)


def test_scores_that_are_no_numbers() -> None:
    mapping = model_of().active_mapping()
    with pytest.raises(DataError, match="NaN"):
        mapping.fit(prior_of(mapping, [float("nan")] * 5), None)
