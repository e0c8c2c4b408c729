"""The controls: the frozen rows are what our own model would say."""

from __future__ import annotations

import copy

import pytest
import torch
from benchmarks.baselines import (
    Untaught,
    classical,
    encoder_probe,
    encoder_states,
    in_slices,
    majority,
)

import hf_reprogram as hr
from hf_reprogram.testing.helpers import LABELS, ROWS, state_hash
from hf_reprogram.testing.models import tiny


# The frozen model, untaught -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_frozen_rows_are_what_three_models_of_ours_would_say(family: str):
    base, tokenizer = tiny(family)
    before = state_hash(base)
    verbalizer = {"words": {"negative": [" bad"], "positive": [" good"]}}
    template = "{text} it was{answer}"
    seen: list[int] = []
    model = Untaught(base, tokenizer, template, verbalizer, ROWS, content_free="the", tick=seen.append)
    found = [model.words("zero_shot"), model.words("calibrated"), model.probe(ROWS)]
    model.close()
    assert [outcome.method for outcome in found] == ["zero_shot", "calibrated", "probe"]
    assert sum(seen) == 2 * len(ROWS)  # one pass over the test rows, one over the few

    mappings = [
        hr.VerbalizerConfig(**verbalizer),
        hr.VerbalizerConfig(**verbalizer, calibration="contextual", calibration_texts=["the"]),
        hr.LinearConfig(on="state", pool="answer", solver="ridge"),
    ]
    for outcome, mapping in zip(found, mappings, strict=True):
        config = hr.ReprogramConfig(program={"type": "none", "template": template}, mapping=mapping, labels=LABELS)
        model = hr.get_reprogram_model(copy.deepcopy(base), config, processing_class=tokenizer)
        if model.active_mapping().needs_fit:
            model.fit_mapping(ROWS)
        torch.testing.assert_close(outcome.scores, model.score(ROWS), atol=1e-5, rtol=1e-5)
        assert outcome.guesses == [guess["label"] for guess in model.predict(ROWS)]
    assert state_hash(base) == before and all(p.requires_grad for p in base.parameters())


def test_a_second_probe_owes_nothing_to_the_first():
    base, tokenizer = tiny("llama")
    words = {"words": {"negative": [" bad"], "positive": [" good"]}}
    turned = [{**row, "label": LABELS[1 - LABELS.index(row["label"])]} for row in ROWS]
    model = Untaught(base, tokenizer, "{text} it was{answer}", words, ROWS)
    first, second, again = model.probe(ROWS), model.probe(turned), model.probe(ROWS)
    torch.testing.assert_close(second.scores, first.scores.flip(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(first.scores, again.scores)


def test_encoder_states_are_means_over_real_tokens_whatever_stands_beside_a_text():
    base, tokenizer = tiny("bert")
    encoder = base.bert
    rows = [{"text": "the film was good"}, {"text": "it broke"}]
    together = encoder_states(encoder, tokenizer, rows)
    for row, state in zip(rows, together, strict=True):
        alone = encoder(**tokenizer(row["text"], return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(state, alone, atol=1e-5, rtol=1e-5)


def test_encoder_probe_finds_what_separates_the_few():
    few = torch.tensor([[0.0, 5.0], [0.0, -5.0], [1.0, 5.0], [1.0, -5.0]])
    test = torch.tensor([[0.9, 0.0], [0.1, 0.0]])
    made = encoder_probe("minilm", test, few, ["low", "high"], ["low", "low", "high", "high"])
    assert (made.method, made.guesses) == ("probe:minilm", ["high", "low"])
    assert made.trained_parameters == 2 * 2 + 2


# Without a language model -------------------------------------------------------------------------------------------


def test_majority_and_classical_learn_from_the_training_rows_only():
    train = [{"text": "good good phone", "label": "positive"}, {"text": "bad phone", "label": "negative"}] * 2
    test = [{"text": "so good", "label": "?"}, {"text": "so bad", "label": "?"}]
    assert majority([*train, train[1]], test).guesses == ["negative", "negative"]
    made = classical(train, test, "4")
    assert (made.method, made.guesses) == ("classical:4", ["positive", "negative"])
    assert made.trained_parameters == 3 + 3 + 1 and made.artefact_bytes > 0  # words, pairs, a constant


def test_in_slices_gives_rows_back_in_their_order():
    rows = [{"text": "x" * length} for length in (5, 1, 4, 2, 3)]
    slices: list[list[int]] = []

    def read(part: list[dict[str, str]]) -> torch.Tensor:
        slices.append([len(row["text"]) for row in part])
        return torch.tensor([[float(length)] for length in slices[-1]])

    assert in_slices(rows, read, size=2).flatten().tolist() == [5, 1, 4, 2, 3]
    assert slices == [[5, 4], [3, 2], [1]]
