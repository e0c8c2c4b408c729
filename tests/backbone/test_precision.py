"""Bases in bfloat16, 8 and 4 bits: a float32 program trains on them, is saved, and loads on the same base (E§3)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BitsAndBytesConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    StableLmConfig,
    StableLmForCausalLM,
    Trainer,
    TrainingArguments,
)

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError
from hf_reprogram.testing import LABELS, ROWS, logits_of, program_config, state_hash, tiny
from hf_reprogram.testing.helpers import train_step


BITS = {
    "8 bits": {"load_in_8bit": True},
    "4 bits": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32},
    "nf4 in bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    """bitsandbytes tells of every product in 8 bits that its inputs are cast."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@pytest.fixture(params=BITS)
def quantised(request: Any, tmp_path: Path) -> Any:
    """Makes a quantised base: its own head, which is not tied, is packed too unless it is left out."""
    base, _ = tiny("llama")
    base.config.tie_word_embeddings = False
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach() + 0.01)
    base.save_pretrained(tmp_path / "base")

    def make(head: bool = True) -> PreTrainedModel:
        skip = ["none"] if head else ["lm_head"]
        options = BitsAndBytesConfig(**BITS[request.param], llm_int8_skip_modules=skip)
        return LlamaForCausalLM.from_pretrained(tmp_path / "base", quantization_config=options)

    return make


@pytest.mark.parametrize("head", [True, False], ids=["head packed", "head plain"])
def test_a_program_trains_on_packed_weights(quantised: Any, head: bool, tmp_path: Path) -> None:
    base, tokenizer = quantised(head), tiny("llama")[1]
    assert (type(base.lm_head) is not torch.nn.Linear) == head
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    start, packed = model.active_programs()[0].slots.detach().clone(), base.model.layers[0].mlp.up_proj.weight.clone()
    train_step(model)
    slots = model.active_programs()[0].slots
    assert slots.dtype == torch.float32 and not torch.equal(slots, start)
    assert torch.equal(base.model.layers[0].mlp.up_proj.weight, packed)

    model.save_pretrained(tmp_path / "program")
    again = hr.AutoReprogramModel.from_pretrained(tmp_path / "program", quantised(head), tokenizer)
    assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))


def test_gradients_come_through_weights_that_were_read_without_them(quantised: Any, tmp_path: Path) -> None:
    """Where the CPU has bfloat16 products, bitsandbytes 0.50 then lays weights out anew, and a gradient became 0."""
    config = tiny("llama")[0].config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base, tokenizer = quantised(head=False), tiny("llama")[1]
    with torch.no_grad():
        before = base(torch.arange(1, 9)[None]).logits
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    model.predict(ROWS, progress=False)
    model(**model.collator()(ROWS)).loss.backward()
    assert bool(model.active_programs()[0].slots.grad.any())
    with torch.no_grad():
        again = base(torch.arange(1, 9)[None]).logits
    torch.testing.assert_close(again, before, atol=0.05 * float(before.abs().max()), rtol=0)


def test_rows_of_a_packed_head(quantised: Any) -> None:
    """A packed matrix has not one row for each word: sliced, it gave other words' bytes, or an index error."""
    base, tokenizer = quantised(), tiny("llama")[1]
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    head = model.backbone.head
    assert (head.size, head.width) == (97, 32)
    assert base.lm_head.weight.dtype == torch.int8 or base.lm_head.weight.shape == (97 * 32 // 2, 1)
    ids, states = torch.tensor([3, 50, 96]), torch.randn(5, 32)
    weight, bias = head.rows(ids)
    with torch.no_grad():
        full = base.lm_head(states).float()
    close = {"atol": 0.05 * float(full.abs().max()), "rtol": 0}
    torch.testing.assert_close(states @ weight.T + bias, full[:, ids], **close)
    torch.testing.assert_close(head.logits(states, ids), full[:, ids], atol=1e-5, rtol=0)


def test_mappings_on_a_packed_head(quantised: Any) -> None:
    base, tokenizer = quantised(), tiny("llama")[1]
    words = {"negative": [" bad"], "positive": [" good"]}
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    for name, mapping in {
        "rows": hr.VerbalizerConfig(words=words, rows="trained"),
        "source": hr.LinearConfig(on="source"),
        "several": hr.VerbalizerConfig(words={"negative": [" bad poor"], "positive": [" good"]}),
    }.items():
        program = {"type": "none", "template": "{text} it was{answer}"}
        model.add_adapter(name, hr.ReprogramConfig(program=program, mapping=mapping, labels=LABELS))
        model.set_adapter(name)
        if model.active_mapping().needs_fit:
            model.fit_mapping(ROWS)
        assert logits_of(model, ROWS).isfinite().all()


def test_a_family_without_a_row_on_packed_weights(tmp_path: Path) -> None:
    """Its rows are proved alone; in 8 bits a product hangs on the rows beside, so that they differ by a hundredth."""
    config = StableLmConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    StableLmForCausalLM(config).save_pretrained(tmp_path / "base")
    packed = BitsAndBytesConfig(load_in_8bit=True)
    base = StableLmForCausalLM.from_pretrained(tmp_path / "base", quantization_config=packed)
    model = hr.get_reprogram_model(base, program_config("prompt"), tiny("llama")[1])
    start = model.active_programs()[0].slots.detach().clone()
    train_step(model)
    assert not torch.equal(model.active_programs()[0].slots, start)


def test_trainer_takes_it(quantised: Any, tmp_path: Path) -> None:
    """Trainer refuses a quantised model that is no PEFT model."""
    model = hr.get_reprogram_model(quantised(), program_config("prompt"), tiny("llama")[1])
    arguments = TrainingArguments(
        str(tmp_path / "out"), remove_unused_columns=False, learning_rate=0.07, max_steps=2, use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    before = model.active_programs()[0].slots.detach().clone()
    Trainer(model, arguments, train_dataset=ROWS, data_collator=model.collator()).train()
    assert not torch.equal(model.active_programs()[0].slots, before)


def test_a_quantised_base_is_another_base(quantised: Any, tmp_path: Path) -> None:
    base, tokenizer = LlamaForCausalLM.from_pretrained(tmp_path / "base"), tiny("llama")[1]
    hr.get_reprogram_model(base, program_config("prompt"), tokenizer).save_pretrained(tmp_path / "program")
    with pytest.raises(ArtefactError, match="a base with another config|with other weights|in another dtype"):
        hr.AutoReprogramModel.from_pretrained(tmp_path / "program", quantised(), tokenizer)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_a_float32_program_on_a_bfloat16_base(family: str) -> None:
    """Invariant 9. A program in bfloat16 would lose small steps; parts in two types would not add up (E§0 8)."""
    base, tokenizer = tiny(family)
    base = base.to(torch.bfloat16)
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    before, start = state_hash(base.float()), model.active_programs()[0].slots.detach().clone()
    base.to(torch.bfloat16)
    train_step(model)
    slots = model.active_programs()[0].slots
    assert slots.dtype == torch.float32 and not torch.equal(slots, start)
    assert state_hash(base.float()) == before
    model.to(torch.bfloat16)
    assert model.active_programs()[0].slots.dtype == torch.float32
    assert logits_of(model, ROWS).dtype == torch.float32
