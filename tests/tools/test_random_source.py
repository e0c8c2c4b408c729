"""A random source keeps scale, shapes and ties; nothing that the model learned is left."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_reprogram.testing.helpers import state_hash
from hf_reprogram.tools.random_source import random_source


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
