"""The traps and rules of frozen language models (methods-text.md §0.1 and §0.2), with the error that each would make.

Families that we lack are tried with the row of data that one would write first: the probe lets no wrong one through.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.backbone.families import FAMILIES as ROWS_OF_DATA
from hf_reprogram.backbone.families import Family
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ArtefactError, BaseModelError, UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, build, logits_of, program_config, tiny
from tests.traps.accounts import check_accounts, numbers_of_tests


RULES = {
    "01": "tests/traps/test_language_models.py::test_t02_01_",
    "02": "hf_reprogram/testing/checks.py::the base woke up",
    "03": "tests/traps/test_language_models.py::test_t02_03_",
    "04": "tests/data/test_text.py::test_left_padding_moves_the_answer_with_the_row",
    "05": "tests/backbone/test_text.py::test_token_types_go_only_where_they_are_types",
    "06": "tests/backbone/test_text.py::test_positions_of_roberta_leave_two_rows_of_its_table",
    "07": 'tests/backbone/test_text.py::{"sides": ("right", "left")}',  # BART: exact with padding on the right only
    "09": "tests/backbone/test_text.py::test_our_way_through_the_base_is_its_own",  # its first decoder step
    "10": "tests/backbone/test_text.py::test_equals_a_loop_by_hand",
    "11": "tests/traps/test_peft_and_transformers.py::test_e0_08_",
    "12": "tests/backbone/test_text.py::test_checkpointing_gives_the_same_gradients_and_wakes_no_dropout",
    "14": "tests/programs/test_prompt.py::test_slots_are_clones_not_rows_of_the_base",
    "15": "tests/test_performance.py::test_a_saved_program_is_small",
    "16": "hf_reprogram/testing/checks.py::def sliced_equals_full",
}
ELSEWHERE = {
    "04": "tests/backbone/test_text.py::T§0.2 4",
    "12": "tests/backbone/test_text.py::test_slots_are_as_wide_as_the_embedding_not_the_hidden_state",
    "14": "tests/programs/test_prompt.py::T§0.2 14",
    "17": "hf_reprogram/testing/checks.py::a row beside others against alone",
}
NOT_OURS = {
    "11": "I-BERT has no row in FAMILIES",
    "15": "XLNet, Longformer and CTRL have no row in FAMILIES",
    "16": "state-space models have no row in FAMILIES",
}


def test_t02_every_trap_is_accounted_for() -> None:
    check_accounts([f"{i:02}" for i in range(1, 19)], numbers_of_tests(globals(), "test_t02_"), ELSEWHERE, NOT_OURS)
    check_accounts([f"{i:02}" for i in range(1, 17)], numbers_of_tests(globals(), "test_t01_"), RULES, {})


def _error(ours: Tensor, own: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((ours - own).abs().max() / own.abs().max()).item()


IDS = torch.arange(10, 18).view(1, 8)
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
GROUPED = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}


# Rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta"])
def test_t01_08_the_first_token_stays_the_first(family: str) -> None:
    """PEFT puts its virtual tokens before <s>; where a tokenizer sets one, slots come after it. Without slots the row
    is the tokenizer's own, and the scores are the base's."""
    base, tokenizer = tiny(family)
    first = build(program_config("prompt", family), family).collator()([{"text": "so good"}])
    assert first["input_ids"][0, 0] == tokenizer("so good")["input_ids"][0] == tokenizer.bos_token_id
    assert first["slot_index"][0, :3].tolist() == [-1, 0, 1]
    model = get_reprogram_model(base, ReprogramConfig(program={"type": "none", "template": "{text}"}), tokenizer)
    columns = model.collator()([{"text": "so good"}])
    assert columns["input_ids"].tolist() == [tokenizer("so good")["input_ids"]]
    with torch.no_grad():
        assert torch.equal(model(**columns).logits, base(input_ids=columns["input_ids"]).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_t01_13_attention_implementations_agree_on_slots_and_padding(family: str) -> None:
    """A row of padding alone may not become NaN, and a program of one is a program of the other."""
    found = []
    for kind in ("eager", "sdpa"):
        model = build(program_config("prompt", family), family)
        model.backbone.base.set_attn_implementation(kind)
        found.append(logits_of(model, ROWS))
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


# Traps ------------------------------------------------------------------------------------------------------------


def test_t02_01_the_embedding_is_called_not_indexed() -> None:
    """Gemma scales in the module: `weight[ids]` is wrong by a fifth or more."""
    backbone = TextBackbone(tiny("gemma2")[0])
    with torch.no_grad():
        own = backbone.base(input_ids=IDS).logits
        assert _error(backbone.base(inputs_embeds=backbone.embedding.weight[IDS]).logits, own) > 0.1
        assert _error(backbone.base(inputs_embeds=backbone.embed(IDS)).logits, own) == 0


def test_t02_03_positions_count_real_tokens() -> None:
    """A row of GPT-2 with four positions of padding on its left: without position ids its scores are others."""
    model = build(program_config("prompt"), "gpt2")
    backbone, mask = model.backbone, torch.tensor([[0] * 4 + [1] * 8])
    padded = torch.cat([torch.full((1, 4), 5), IDS], 1)
    with torch.no_grad():
        own = backbone.base(input_ids=IDS).logits[:, -1]
        bare = backbone.base(inputs_embeds=backbone.embed(padded), attention_mask=mask).logits[:, -1]
        batch = model.reprogrammed.batch(padded, mask)
        batch.embeds = backbone.embed(padded)
        ours = backbone.base_output(batch).logits[:, -1]
    assert _error(bare, own) > 0.1
    assert _error(ours, own) < 1e-6


@pytest.mark.parametrize("family", ["roberta", "llama", "bert"])
def test_t02_05_what_stands_in_slots_and_padding_is_never_looked_at(family: str) -> None:
    """RoBERTa makes positions of `ids != pad`: a pad id in slots shifts all that follow. Ours are the mask's."""
    model = build(program_config("prompt", family), family)
    columns = model.collator()(ROWS)
    pad = model.processing_class.pad_token_id
    assert not (columns["input_ids"] == pad).any()
    unread = (columns["slot_index"] >= 0) | (columns["attention_mask"] == 0)
    with torch.no_grad():
        expected = model(**columns).logits
        columns["input_ids"] = columns["input_ids"].masked_fill(unread, pad)
        assert torch.equal(model(**columns).logits, expected)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_t02_06_the_embedding_is_the_one_that_is_called(family: str) -> None:
    """`get_input_embeddings()` of T5 and BART is `shared`, which nothing calls."""
    model = build(program_config("prompt"), family)
    base, body = model.backbone.base, model.backbone.body
    calls = dict.fromkeys(("shared", "encoder", "decoder"), 0)
    modules = {"shared": base.get_input_embeddings(), "encoder": body.encoder.embed_tokens}
    for name, module in (modules | {"decoder": body.decoder.embed_tokens}).items():
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    base(input_ids=IDS, decoder_input_ids=IDS[:, :1])
    assert calls == {"shared": 0, "encoder": 1, "decoder": 1}
    assert model.backbone.embedding is modules["encoder"]


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "bart"])
def test_t02_07_a_frozen_base_drops_nothing_while_the_program_trains(family: str) -> None:
    """In train mode two passes of a frozen GPT-2 differ by more than their size."""
    model = build(program_config("prompt", family), family)
    columns = model.collator()(ROWS)
    base = model.backbone.base.train()
    first, second = (model(**columns).logits for _ in range(2))
    assert _error(first, second) > 0.01, "the base has no dropout to show it with"
    base.eval()
    model.train()
    assert torch.equal(model(**columns).logits, model(**columns).logits)


def _pegasus() -> PreTrainedModel:
    config = transformers.PegasusConfig(
        vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, bos_token_id=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, scale_embedding=True,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return transformers.PegasusForConditionalGeneration(config)


def _esm() -> PreTrainedModel:
    config = transformers.EsmConfig(
        **SMALL, intermediate_size=48, token_dropout=True, mask_token_id=4, position_embedding_type="rotary"
    )
    return transformers.EsmForMaskedLM(config)


def _granite() -> PreTrainedModel:
    return transformers.GraniteForCausalLM(transformers.GraniteConfig(**GROUPED, embedding_multiplier=6.0))


def _gemma3n() -> PreTrainedModel:
    config = transformers.Gemma3nTextConfig(
        **{**GROUPED, "intermediate_size": [48, 48]}, head_dim=8, vocab_size_per_layer_input=97,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=4, layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0, 0.0],
    )  # fmt: skip
    return transformers.Gemma3nForCausalLM(config)


def _with_a_row(base: PreTrainedModel, row: Family, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the probe finds of a base of a new family; all its parameters away from zero."""
    monkeypatch.setitem(ROWS_OF_DATA, base.config.model_type, row)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in base.eval().parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return probe(TextBackbone(base))


ESM = replace(ROWS_OF_DATA["roberta"], body="esm", token_types=False)


def test_t02_02_a_scale_on_the_way_of_ids_alone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pegasus multiplies by the root of d where it gets ids, and not where it gets embeddings."""
    with pytest.raises(BaseModelError, match="Pegasus.*relative differences embeds"):
        _with_a_row(_pegasus(), ROWS_OF_DATA["bart"], monkeypatch)


def test_t02_08_tokens_that_are_dropped_by_their_ids_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """ESM scales by 0.88 / (1 - share of masks) where it gets ids."""
    with pytest.raises(BaseModelError, match="Esm.*relative differences embeds"):
        _with_a_row(_esm(), ESM, monkeypatch)


def test_t02_09_inputs_of_every_layer_need_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3n embeds ids once for every layer: embeddings alone are another input. Without a row it is refused by
    name, with Gemma 2's by its numbers."""
    with pytest.raises(BaseModelError, match="'gemma3n_text', which has no row in FAMILIES"):
        TextBackbone(_gemma3n())
    with pytest.raises(BaseModelError, match="Gemma3nForCausalLM does not compute.*relative differences embeds"):
        _with_a_row(_gemma3n(), replace(ROWS_OF_DATA["gemma2"], softcap=None), monkeypatch)


def test_t02_10_a_scale_on_both_ways_wants_raw_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite multiplies after embedding, whatever it got: what its module gives is what it takes."""
    with pytest.raises(BaseModelError, match="relative differences embeds .*, rows"):
        # Its logits are divided at the end, which is no part of Llama's row.
        base = _granite()
        base.config.logits_scaling = 2.0
        _with_a_row(base, ROWS_OF_DATA["llama"], monkeypatch)
    assert _with_a_row(_granite(), ROWS_OF_DATA["llama"], monkeypatch)["embeds"] < 1e-6


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_t02_13_a_mask_must_cover_the_slots(family: str) -> None:
    """Llama and GPT-2 take a shorter mask as padding on the right, without a word."""
    model = build(program_config("prompt", family), family)
    columns = model.collator()(ROWS)
    columns["attention_mask"] = columns["attention_mask"][:, 5:]
    with pytest.raises(UsageError, match=r"attention_mask: of shape .*slots included"):
        model(**columns)


def test_t02_18_a_base_of_more_layers_than_its_checkpoint(tmp_path: Path) -> None:
    """transformers draws the missing layers at random and says so in a table that scripts do not show."""
    base, tokenizer = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config: dict[str, Any] = program_config("prompt").to_dict()
    model = get_reprogram_model(base, ReprogramConfig(**config | {"labels": LABELS}), tokenizer)
    model.save_pretrained(tmp_path / "program")
    with pytest.raises(ArtefactError, match="made for a base with another config"):
        AutoReprogramModel.from_pretrained(tmp_path / "program", num_hidden_layers=4)
