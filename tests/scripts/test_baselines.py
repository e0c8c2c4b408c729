"""The controls: a random source keeps scale and ties, the frozen rows are what our own model would say."""

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
    random_source,
)
from transformers import LlamaConfig, LlamaForCausalLM

import hf_reprogram as hr
from hf_reprogram.testing.helpers import LABELS, ROWS, state_hash
from hf_reprogram.testing.models import tiny


def llama(tie: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tie,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a trained model's tensors differ in scale, and its norms are not all ones
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 * (i + 1) + 0.05 * i)
    return model


# The random source --------------------------------------------------------------------------------------------------


def test_random_source_keeps_mean_and_deviation_of_every_tensor_and_nothing_else():
    model = llama(tie=False)
    source = random_source(model)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in source.named_parameters()] == names and "lm_head.weight" in names
    for name, old in model.named_parameters():
        new = source.get_parameter(name)
        n, spread = old.numel(), old.std(correction=0)
        # Five standard errors of a mean and of a deviation of n normal numbers.
        assert abs(new.mean() - old.mean()) <= 5 * spread / n**0.5, name
        assert abs(new.std(correction=0) - spread) <= 5 * spread / (2 * n) ** 0.5, name
        assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) <= 5 / n**0.5, name
    rotary = "model.rotary_emb.inv_freq"
    assert torch.equal(source.get_buffer(rotary), model.get_buffer(rotary))


def test_random_source_leaves_the_model_as_it_is():
    model = llama(tie=True)
    before = state_hash(model)
    source = random_source(model)
    assert state_hash(model) == before != state_hash(source)
    assert source.get_input_embeddings().weight is not model.get_input_embeddings().weight


def test_random_source_keeps_tied_weights_tied():
    tied = random_source(llama(tie=True))
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    untied = random_source(llama(tie=False))
    assert not torch.equal(untied.lm_head.weight, untied.get_input_embeddings().weight)


def test_random_source_is_seeded():
    model = llama(tie=True)
    assert state_hash(random_source(model, 3)) == state_hash(random_source(model, 3))
    assert state_hash(random_source(model, 3)) != state_hash(random_source(model, 4))
    state = torch.random.get_rng_state()
    random_source(model)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers move


def test_random_source_keeps_dtype_and_constant_tensors():
    model = llama(tie=True).to(torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight.fill_(1.0)
    source = random_source(model)
    assert {p.dtype for p in source.parameters()} == {torch.bfloat16}
    assert bool((source.model.norm.weight == 1).all())


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
