"""Tiny random bases of every family and kind, with tokenizers: enough to run all, too little to know anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

from .audio import AUDIO_FAMILIES, AUDIO_KIN, tiny_audio
from .words import word_tokenizer


_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SHORT = {"max_position_embeddings": 64}


def tiny(family: str, seed: int = 0) -> tuple[t.PreTrainedModel, Any]:
    """A random tiny base and its tokenizer; of one that hears its feature extractor.

    Weights are random; English words have no meaning to it. Biases and norms are not at their trivial values, so that
    a forgotten one shows.

    Args:
        family: one of `FAMILIES` (a language model by its family's name alone, else `family-kind`), or of
            `AUDIO_FAMILIES`.
        seed: of the weights.
    """
    if family in (*AUDIO_FAMILIES, *AUDIO_KIN):
        return tiny_audio(family, seed)
    name, _, kind = family.partition("-")
    config_of, space, classes = _FAMILIES[name]
    tokenizer = word_tokenizer(space)
    torch.manual_seed(seed)
    base = classes[kind or "lm"](config_of(len(tokenizer), tokenizer.pad_token_id)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in base.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.2 + (1 if p.ndim == 1 and name.endswith("weight") else 0))
    return base, tokenizer


def _llama(vocabulary: int, pad: int) -> t.LlamaConfig:
    return t.LlamaConfig(
        vocab_size=vocabulary, **_SMALL, **_SHORT, num_key_value_heads=2, pad_token_id=pad, tie_word_embeddings=True,
        num_labels=7,
    )  # fmt: skip


def _gemma2(vocabulary: int, pad: int) -> t.Gemma2Config:
    """Scaled embeddings, a soft cap on attention and logits, a sliding window shorter than the rows."""
    return t.Gemma2Config(
        vocab_size=vocabulary, **_SMALL, **_SHORT, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
        sliding_window=6, final_logit_softcapping=3.0, attn_logit_softcapping=5.0, pad_token_id=pad, num_labels=7,
    )  # fmt: skip


def _gpt2(vocabulary: int, pad: int) -> t.GPT2Config:
    return t.GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3,
        pad_token_id=pad, num_labels=7,
    )  # fmt: skip


def _bert(vocabulary: int, pad: int) -> t.BertConfig:
    return t.BertConfig(vocab_size=vocabulary, **_SMALL, **_SHORT, pad_token_id=pad, num_labels=7)


def _roberta(vocabulary: int, pad: int) -> t.RobertaConfig:
    """A pad id that is not 0, so that positions counted from the wrong place show."""
    return t.RobertaConfig(
        vocab_size=vocabulary, **_SMALL, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1, num_labels=7
    )


def _albert(vocabulary: int, pad: int) -> t.AlbertConfig:
    """Embeddings half as wide as the hidden states."""
    return t.AlbertConfig(vocab_size=vocabulary, **_SMALL, **_SHORT, embedding_size=16, pad_token_id=pad, num_labels=7)


def _t5(vocabulary: int, pad: int) -> t.T5Config:
    return t.T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=pad,
        decoder_start_token_id=pad,
    )  # fmt: skip


def _bart(vocabulary: int, pad: int) -> t.BartConfig:
    return t.BartConfig(
        vocab_size=vocabulary, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        pad_token_id=pad, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=None,
    )  # fmt: skip


_FAMILIES: dict[str, tuple[Callable[[int, int], t.PreTrainedConfig], str, dict[str, type[t.PreTrainedModel]]]] = {
    "llama": (_llama, "bytes", {"lm": t.LlamaForCausalLM, "classifier": t.LlamaForSequenceClassification}),
    "gpt2": (_gpt2, "bytes", {"lm": t.GPT2LMHeadModel, "classifier": t.GPT2ForSequenceClassification}),
    "gemma2": (_gemma2, "bytes", {"lm": t.Gemma2ForCausalLM}),
    "bert": (
        _bert,
        "words",
        {"lm": t.BertForMaskedLM, "classifier": t.BertForSequenceClassification, "encoder": t.BertModel},
    ),
    "roberta": (_roberta, "words", {"lm": t.RobertaForMaskedLM, "classifier": t.RobertaForSequenceClassification}),
    "albert": (
        _albert,
        "words",
        {"lm": t.AlbertForMaskedLM, "classifier": t.AlbertForSequenceClassification, "encoder": t.AlbertModel},
    ),
    "t5": (_t5, "pieces", {"lm": t.T5ForConditionalGeneration, "encoder": t.T5EncoderModel}),
    "bart": (_bart, "words", {"lm": t.BartForConditionalGeneration}),
}
LANGUAGE_MODELS = tuple(_FAMILIES)
FAMILIES = LANGUAGE_MODELS + tuple(
    f"{name}-{kind}" for name, (*_, classes) in _FAMILIES.items() for kind in classes if kind != "lm"
)
