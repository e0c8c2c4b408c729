"""The traps and rules of frozen language models (methods-text.md §0.1 and §0.2), with the error that each would make.

A family is tried with the row of data that one would write first, too: the probe lets no wrong one through.
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
from hf_reprogram.backbone import ask
from hf_reprogram.backbone.families import FAMILIES as ROWS_OF_DATA
from hf_reprogram.backbone.families import Family
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.batch import Batch
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
NOT_OURS: dict[str, str] = {}


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


def _probed_by(base: PreTrainedModel, row: Family, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the probe finds of a base with another row."""
    monkeypatch.setitem(ROWS_OF_DATA, base.config.model_type, row)
    return probe(TextBackbone(base))


@pytest.mark.parametrize("family", ["pegasus", "falcon_h1"])
def test_t02_02_a_scale_on_the_way_of_ids_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pegasus multiplies by the root of d where it gets ids, Falcon-H1 by a number of its config; neither where it
    gets embeddings. Slots are born at the size of what the ids become."""
    backbone = TextBackbone(tiny(family)[0])
    scale = {"pegasus": 32**0.5, "falcon_h1": 5.65}[family]
    torch.testing.assert_close(backbone.embed(IDS), backbone.embedding(IDS) * scale)
    table = backbone.embedding.weight.detach().double()
    assert backbone.rms() == pytest.approx(scale * table.square().mean().sqrt().item(), rel=1e-6)
    assert max(probe(backbone).values()) < 1e-5
    row = replace(backbone.family, embed_scale=None)
    with pytest.raises(BaseModelError, match="relative differences embeds"):
        _probed_by(backbone.base, row, monkeypatch)


def test_t02_08_tokens_that_are_dropped_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """ESM zeroes masks and scales the rest by 0.88 / (1 - their share), where it gets ids: so it gets them, with our
    embeddings in place of its own."""
    base, _ = tiny("esm")
    backbone = TextBackbone(base)
    masked = IDS.clone()
    masked[0, 3] = base.config.mask_token_id
    with torch.no_grad():
        own = base(input_ids=masked).logits
        assert _error(base(inputs_embeds=backbone.embed(masked)).logits, own) > 0.05
        batch = Batch(masked, torch.ones_like(masked), embeds=backbone.embed(masked))
        assert torch.equal(backbone.base_output(batch).logits, own)
        # What stands in a slot is another vector, dropped and scaled as a word's: by 0.88 / (1 - 1/8).
        words = base.esm.embeddings.word_embeddings
        other = words(masked).index_copy(1, torch.tensor([5]), torch.ones(1, 1, 32))
        seen: list[Tensor] = []
        handle = base.esm.embeddings.register_forward_hook(lambda *a: seen.append(a[-1]))
        backbone.base_output(replace(batch, embeds=other))
        handle.remove()
        position = base.esm.embeddings.position_embeddings(torch.tensor([5 + 2]))
        torch.testing.assert_close(seen[0][:, 5] - position, torch.full((1, 32), 0.88 / (1 - 1 / 8)))
    with pytest.raises(BaseModelError, match="Esm.*relative differences embeds"):
        _probed_by(base, replace(backbone.family, reads_ids=False), monkeypatch)


def test_t02_08_placeholders_are_no_mask_and_no_padding() -> None:
    """A mask in a slot would be dropped, a pad id would shift positions (T§0.2 5). Nothing stays on the base."""
    model = build(program_config("prompt", "esm"), "esm")
    columns = model.collator()(ROWS)
    slots = columns["slot_index"] >= 0
    tokenizer = model.processing_class
    placeholders = set(columns["input_ids"][slots].tolist())
    assert len(placeholders) == 1 and not placeholders & set(tokenizer.all_special_ids)
    model(**columns).logits.sum().backward()
    assert model.active_programs()[0].slots.grad.abs().sum() > 0
    assert not model.backbone.embedding._forward_hooks


def test_t02_09_inputs_of_every_layer_need_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3n embeds ids once for every layer: embeddings alone are another input. Gemma 4 looks for the ids of what
    it is given, and does not find a slot's."""
    base, _ = tiny("gemma3n")
    assert max(probe(TextBackbone(base)).values()) < 1e-5
    with pytest.raises(BaseModelError, match="Gemma3nForCausalLM does not compute.*relative differences embeds"):
        _probed_by(base, replace(ROWS_OF_DATA["gemma3n_text"], reads_ids=False), monkeypatch)
    monkeypatch.setattr(ask, "FAMILIES", {k: row for k, row in ROWS_OF_DATA.items() if k != "gemma4_text"})
    config = transformers.Gemma4TextConfig(
        **GROUPED, head_dim=8, global_head_dim=8, vocab_size_per_layer_input=97, hidden_size_per_layer_input=8,
        num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    with pytest.raises(BaseModelError, match="Gemma4ForCausalLM .* no row in FAMILIES; by body='model', .* it fails"):
        probe(TextBackbone(transformers.Gemma4ForCausalLM(config).eval()))


def test_t02_10_a_scale_on_both_ways_wants_raw_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite multiplies after embedding, whatever it got: what its module gives is what it takes. Its logits are
    divided at the end, which is no part of Llama's row."""
    base, _ = tiny("granite")
    backbone = TextBackbone(base)
    assert torch.equal(backbone.embed(IDS), backbone.embedding(IDS))
    assert max(probe(backbone).values()) < 1e-6
    with pytest.raises(BaseModelError, match="relative differences embeds .*, rows"):
        _probed_by(base, ROWS_OF_DATA["llama"], monkeypatch)


def test_t02_11_an_embedding_that_gives_more_than_vectors() -> None:
    """I-BERT's gives a tuple."""
    base = transformers.IBertForMaskedLM(transformers.IBertConfig(**SMALL, intermediate_size=48))
    with pytest.raises(BaseModelError, match="IBertForMaskedLM .* gives QuantEmbedding where a Embedding of its own"):
        TextBackbone(base)


def test_t02_15_who_writes_into_what_it_is_given() -> None:
    """CTRL multiplies its input in place, so that a second pass over the same rows is another one."""
    config = transformers.CTRLConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4, dff=48)
    with pytest.raises(BaseModelError, match="CTRLLMHeadModel .* no row in FAMILIES; by .* relative differences"):
        probe(TextBackbone(transformers.CTRLLMHeadModel(config).eval()))


def test_t02_15_longformer_pads_inside() -> None:
    config = transformers.LongformerConfig(**SMALL, intermediate_size=48, attention_window=4)
    assert max(probe(TextBackbone(transformers.LongformerForMaskedLM(config).eval())).values()) < 1e-5


def test_t02_16_a_state_passes_over_padding() -> None:
    """Mamba reads padding on the left into its state unless it has the mask."""
    config = transformers.MambaConfig(vocab_size=97, hidden_size=32, state_size=8, num_hidden_layers=2)
    base = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        for p in base.parameters():
            p.normal_(std=0.3)
    backbone = TextBackbone(base)
    assert probe(backbone)["left"] < 1e-5
    ids, mask = torch.cat([torch.full((1, 4), 5), IDS], 1), torch.tensor([[0] * 4 + [1] * 8])
    with torch.no_grad():
        own = backbone.base(input_ids=IDS).logits[:, -1]
        assert _error(backbone.base(inputs_embeds=backbone.embed(ids)).logits[:, -1], own) > 1e-3
        batch = Batch(ids, mask, embeds=backbone.embed(ids))
        assert _error(backbone.base_output(batch).logits[:, -1], own) < 1e-5


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
