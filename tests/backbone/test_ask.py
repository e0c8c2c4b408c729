"""Families that no row knows: the model is asked for its parts, and the probe says whether the answer is right."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t

from hf_reprogram.backbone.ask import described, family_of
from hf_reprogram.backbone.families import FAMILIES as ROWS_OF_DATA
from hf_reprogram.backbone.families import Family
from hf_reprogram.backbone.kinds import kind_of
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.errors import BaseModelError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import ROWS, logits_of, program_config
from hf_reprogram.testing.helpers import stacked, train_step
from hf_reprogram.testing.words import word_tokenizer


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 7}
GROUPED = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "pad_token_id": 0,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 0,
}  # fmt: skip


def _made(cls: type, config: type, sizes: dict[str, Any], vocabulary: int = 97) -> t.PreTrainedModel:
    """A random base, all its parameters away from zero."""
    torch.manual_seed(0)
    base = cls(config(vocab_size=vocabulary, **sizes)).eval()
    with torch.no_grad():
        for name, p in base.named_parameters():
            p.normal_(std=0.2).add_(1 if p.ndim == 1 and name.endswith("weight") else 0)
    return base


MAMBA = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
EXACT: dict[str, tuple[type, type, dict[str, Any]]] = {
    "a causal model": (t.StableLmForCausalLM, t.StableLmConfig, GROUPED),
    "one with a bias in its head": (t.Starcoder2ForCausalLM, t.Starcoder2Config, GROUPED),
    "one whose norms have no weights": (t.OlmoForCausalLM, t.OlmoConfig, GROUPED),
    "one with a state": (t.MambaForCausalLM, t.MambaConfig, MAMBA),
    "one of experts": (
        t.GraniteMoeForCausalLM,
        t.GraniteMoeConfig,
        {
            **GROUPED,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "embedding_multiplier": 6.0,
            "logits_scaling": 4.0,
        },
    ),
    "a masked model like BERT": (t.ErnieForMaskedLM, t.ErnieConfig, SIZES),
    "one like RoBERTa": (t.Data2VecTextForMaskedLM, t.Data2VecTextConfig, {**SIZES, "pad_token_id": 1}),
    "a causal classifier": (t.StableLmForSequenceClassification, t.StableLmConfig, {**GROUPED, "pad_token_id": 0}),
    "a classifier like BERT's": (t.ErnieForSequenceClassification, t.ErnieConfig, SIZES),
    "one like RoBERTa's": (
        t.Data2VecTextForSequenceClassification,
        t.Data2VecTextConfig,
        {**SIZES, "pad_token_id": 1},
    ),
    "a bare model": (t.OlmoModel, t.OlmoConfig, GROUPED),
    "encoder and decoder": (t.PLBartForConditionalGeneration, t.PLBartConfig, {**SEQ2SEQ, "scale_embedding": True}),
}


@pytest.mark.parametrize("made", EXACT.values(), ids=EXACT)
def test_a_model_that_says_where_its_parts_are(made: tuple) -> None:
    base = _made(*made)
    assert base.config.model_type not in ROWS_OF_DATA
    seen = probe(TextBackbone(base))
    assert max(gap for name, gap in seen.items() if name != "left") < 1e-5


def test_what_is_asked_is_a_row() -> None:
    base = _made(t.ErnieForMaskedLM, t.ErnieConfig, SIZES)
    family = family_of(base, kind_of(base))
    assert described(family) == (
        "body='ernie', embed='embeddings.word_embeddings', head='cls.predictions.decoder', "
        "transform=('cls.predictions.transform',), token_types=True"
    )
    known = ROWS_OF_DATA["bert"]
    assert (family.transform, family.token_types) == (known.transform, known.token_types)
    assert described(Family("a", "b", "c", causal=True)) == "body='a', embed='b', head='c', causal=True"


@pytest.mark.parametrize("name", ["a causal model", "one with a state", "a masked model like BERT"])
def test_a_program_learns_on_it(name: str) -> None:
    cls, config, sizes = EXACT[name]
    tokenizer = word_tokenizer("words" if "BERT" in name else "bytes")
    base = _made(cls, config, {**sizes, "pad_token_id": tokenizer.pad_token_id}, len(tokenizer))
    model = get_reprogram_model(base, program_config("prompt"), tokenizer)
    start = model.active_programs()[0].slots.detach().clone()
    train_step(model)
    assert not torch.equal(model.active_programs()[0].slots, start)
    alone = stacked([logits_of(model, [row]) for row in ROWS])
    torch.testing.assert_close(logits_of(model, ROWS), alone, atol=1e-5, rtol=0)


def test_padding_on_one_side_only_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """T§0.1 7: RoFormer counts its positions from the start of the row, padding or not, and takes none."""
    backbone = TextBackbone(_made(t.RoFormerForMaskedLM, t.RoFormerConfig, {**SIZES, "embedding_size": 16}))
    with caplog.at_level(logging.WARNING, "hf_reprogram"):
        assert probe(backbone)["left"] > 0.01
    assert backbone.facts.padding_side == "right" and backbone.family.sides == ("right",)
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(
        "RoFormerForMaskedLM is exact with padding on the right only: relative differences embeds"
    )


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "it mixes padding in": (
        lambda: _made(t.FNetForMaskedLM, t.FNetConfig, {k: v for k, v in SIZES.items() if "heads" not in k}),
        r"by body='fnet', .* it computes something else: relative differences embeds 0\..* Expected at most 0.0001",
    ),
    "its states are another size than its head's": (
        lambda: _made(
            t.RemBertForMaskedLM, t.RemBertConfig, {**SIZES, "input_embedding_size": 16, "output_embedding_size": 24}
        ),
        r"by body='rembert', .* it fails: mat1 and mat2 shapes cannot be multiplied",
    ),
    "it sees, too": (
        lambda: t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                text_config={**GROUPED, "head_dim": 8, "vocab_size": 97}, mm_tokens_per_image=4,
                vision_config={**SIZES, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            )
        ),
        r"cannot be asked for its parts: .* has no attribute 'hidden_size'. Expected .*Fix: did you",
    ),
    "a classifier that mixes padding in": (
        lambda: _made(t.FNetForSequenceClassification, t.FNetConfig, {"hidden_size": 32, "num_hidden_layers": 1}),
        r"by body='fnet', .* classify=\('fnet.pooler', 'classifier'\), .* relative differences embeds",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_a_model_of_which_the_guess_is_wrong(
    make: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ROWS_OF_DATA, "rembert")  # as if it had none
    with pytest.raises(BaseModelError, match=f"which has no row in FAMILIES.*{says}"):
        probe(TextBackbone(make()))
