"""Tiny random bases of three families, with tokenizers: enough to run everything, too little to know anything."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)


_WORDS = re.findall(
    r"\w+",
    """a the it was is not very good great bad poor terrible fine film movie book phone works broke after week day
    and but so too this that my i love hate like would buy again never always review overall sentiment positive
    negative""",
)


def tiny(family: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random tiny base and its tokenizer: `llama` (causal), `bert` (masked) or `t5` (seq2seq).

    Weights are random; English words have no meaning to it. Biases and norms are not at their trivial values, so that
    a forgotten one shows.
    """
    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    base = _BASES[family](len(tokenizer), tokenizer.pad_token_id).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in base.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.2 + (1 if p.ndim == 1 and name.endswith("weight") else 0))
    return base, tokenizer


def _llama(vocabulary: int, pad: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=pad, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bert(vocabulary: int, pad: int) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=pad,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _t5(vocabulary: int, pad: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=pad,
        decoder_start_token_id=pad,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


_BASES: dict[str, Callable[[int, int], PreTrainedModel]] = {"llama": _llama, "bert": _bert, "t5": _t5}
FAMILIES = tuple(_BASES)


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per word, with the family's own treatment of spaces and specials."""
    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    marks = {"llama": ("", "Ġ"), "bert": ("",), "t5": ("▁",)}[family]
    vocabulary = specials + [mark + word for word in [*_WORDS, ":", ".", ","] for mark in marks]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if family == "llama":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        template = "<s> $A"
    elif family == "bert":
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        template, names["mask_token"] = "<s> $A </s>", "<mask>"
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        template = "$A </s>"
    ids = [(token, vocabulary.index(token)) for token in specials]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
