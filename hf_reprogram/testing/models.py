"""Tiny random bases of every family and kind, with tokenizers: enough to run all, too little to know anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
        family: one of `FAMILIES` or `SLOW_FAMILIES` (a language model by its family's name alone, else
            `family-kind`), or of `AUDIO_FAMILIES`.
        seed: of the weights.
    """
    if family in (*AUDIO_FAMILIES, *AUDIO_KIN):
        return tiny_audio(family, seed)
    name, _, kind = family.partition("-")
    config_of, space, classes = _FAMILIES[name][:3]
    tokenizer = word_tokenizer(space)
    torch.manual_seed(seed)
    base = classes[kind or "lm"](config_of(len(tokenizer), tokenizer.pad_token_id)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in base.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.2 + (1 if p.ndim == 1 and name.endswith("weight") else 0))
    if base.can_generate():
        base.generation_config.eos_token_id = tokenizer.eos_token_id  # some families have another by default
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


def _grouped(config: type[t.PreTrainedConfig], **more: Any) -> Callable[[int, int], t.PreTrainedConfig]:
    """Of the many families that take Llama's names."""
    facts = {**_SMALL, **_SHORT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3, "num_labels": 7}
    facts |= more
    return lambda vocabulary, pad: config(vocab_size=vocabulary, pad_token_id=pad, **facts)


def _encoder(config: type[t.PreTrainedConfig], **more: Any) -> Callable[[int, int], t.PreTrainedConfig]:
    """Of the families that take BERT's names."""
    facts = {**_SMALL, **_SHORT, "num_labels": 7, **more}
    return lambda vocabulary, pad: config(vocab_size=vocabulary, pad_token_id=pad, **facts)


_gemma = _grouped(t.GemmaConfig, head_dim=8)
_gemma3 = _grouped(
    t.Gemma3TextConfig, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, final_logit_softcapping=3.0,
    layer_types=["sliding_attention", "full_attention"],
)  # fmt: skip
_granite = _grouped(
    t.GraniteConfig, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.5, attention_multiplier=0.3
)
_cohere = _grouped(t.CohereConfig, logit_scale=0.25)
_cohere2 = _grouped(
    t.Cohere2Config, logit_scale=0.25, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
)
_falcon_h1 = _grouped(
    t.FalconH1Config, embedding_multiplier=5.65, lm_head_multiplier=0.5, mamba_d_ssm=32, mamba_n_heads=4,
    mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=4,
)  # fmt: skip
_gpt_neox = _grouped(t.GPTNeoXConfig)
_falcon = _grouped(t.FalconConfig)
_modernbert = _encoder(
    t.ModernBertConfig, local_attention=6, global_attn_every_n_layers=2, classifier_pooling="mean", bos_token_id=2,
    cls_token_id=2, eos_token_id=3, sep_token_id=3,
)  # fmt: skip
_electra = _encoder(t.ElectraConfig, embedding_size=16)
_deberta = _encoder(
    t.DebertaV2Config, embedding_size=16, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm",
    pos_att_type=["p2c", "c2p"], share_att_key=True, position_biased_input=False, type_vocab_size=0,
)  # fmt: skip
_esm = _encoder(t.EsmConfig, max_position_embeddings=66, mask_token_id=4, token_dropout=True)
_xlm_roberta = _encoder(t.XLMRobertaConfig, max_position_embeddings=66, type_vocab_size=1)
_camembert = _encoder(t.CamembertConfig, max_position_embeddings=66, type_vocab_size=1)


def _gemma3n(vocabulary: int, pad: int) -> t.Gemma3nTextConfig:
    return _grouped(
        t.Gemma3nTextConfig, intermediate_size=[48, 48], head_dim=8, vocab_size_per_layer_input=vocabulary,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=4, layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0, 0.0],
    )(vocabulary, pad)  # fmt: skip


def _opt(vocabulary: int, pad: int) -> t.OPTConfig:
    """Embeddings, and the states that are read, half as wide as the hidden states."""
    return t.OPTConfig(
        vocab_size=vocabulary, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, **_SHORT,
        word_embed_proj_dim=16, pad_token_id=pad, bos_token_id=2, eos_token_id=3, num_labels=7,
    )  # fmt: skip


def _gptj(vocabulary: int, pad: int) -> t.GPTJConfig:
    return t.GPTJConfig(
        vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, bos_token_id=2,
        eos_token_id=3, pad_token_id=pad, num_labels=7, tie_word_embeddings=False,
    )  # fmt: skip


def _bloom(vocabulary: int, pad: int) -> t.BloomConfig:
    return t.BloomConfig(
        vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4, pad_token_id=pad, bos_token_id=2, eos_token_id=3,
        num_labels=7,
    )  # fmt: skip


def _distilbert(vocabulary: int, pad: int) -> t.DistilBertConfig:
    return t.DistilBertConfig(
        vocab_size=vocabulary, dim=32, hidden_dim=48, n_layers=2, n_heads=4, **_SHORT, pad_token_id=pad, num_labels=7
    )


def _pegasus(vocabulary: int, pad: int) -> t.PegasusConfig:
    return t.PegasusConfig(
        vocab_size=vocabulary, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, **_SHORT, scale_embedding=True,
        pad_token_id=pad, eos_token_id=3, decoder_start_token_id=pad, forced_eos_token_id=None,
    )  # fmt: skip


def _seq2seq(config: type[t.PreTrainedConfig], **more: Any) -> Callable[[int, int], t.PreTrainedConfig]:
    """Of the families that take BART's names."""
    facts = {"d_model": 32, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, **_SHORT}
    for part in ("encoder", "decoder"):
        facts |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 48}
    facts |= more
    return lambda vocabulary, pad: config(vocab_size=vocabulary, pad_token_id=pad, **facts)


def _m2m100(config: t.M2M100Config) -> t.M2M100ForConditionalGeneration:
    """One that is told its language where its users tell it."""
    base = t.M2M100ForConditionalGeneration(config)
    base.generation_config.forced_bos_token_id = 7
    return base


def _switch(vocabulary: int, pad: int) -> t.SwitchTransformersConfig:
    """One layer in two has experts, which take so few tokens that padding before a row would show."""
    return t.SwitchTransformersConfig(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
        num_experts=3, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=3, pad_token_id=pad,
        eos_token_id=3, decoder_start_token_id=pad,
    )  # fmt: skip


_mbart = _seq2seq(t.MBartConfig, decoder_start_token_id=7, scale_embedding=True, forced_eos_token_id=None)
_m2m100_config = _seq2seq(t.M2M100Config, scale_embedding=True)
_mvp = _seq2seq(t.MvpConfig, scale_embedding=True)
_led = _seq2seq(
    t.LEDConfig, attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=32
)
_rembert = _encoder(t.RemBertConfig, input_embedding_size=16, output_embedding_size=24, bos_token_id=2, eos_token_id=3)
_mobilebert = _encoder(t.MobileBertConfig, embedding_size=16, intra_bottleneck_size=16)


class _Made(NamedTuple):
    """How a family's bases are made, and which of them are tried at every change."""

    config: Callable[[int, int], t.PreTrainedConfig]
    space: str
    classes: dict[str, Callable[[Any], t.PreTrainedModel]]
    quick: tuple[str, ...] = ()


_ALL = ("lm", "classifier", "encoder")
_FAMILIES: dict[str, _Made] = {
    "llama": _Made(_llama, "bytes", {"lm": t.LlamaForCausalLM, "classifier": t.LlamaForSequenceClassification}, _ALL),
    "gpt2": _Made(_gpt2, "bytes", {"lm": t.GPT2LMHeadModel, "classifier": t.GPT2ForSequenceClassification}, _ALL),
    "gemma2": _Made(_gemma2, "bytes", {"lm": t.Gemma2ForCausalLM}, _ALL),
    "bert": _Made(
        _bert,
        "words",
        {"lm": t.BertForMaskedLM, "classifier": t.BertForSequenceClassification, "encoder": t.BertModel},
        _ALL,
    ),
    "roberta": _Made(
        _roberta, "words", {"lm": t.RobertaForMaskedLM, "classifier": t.RobertaForSequenceClassification}, _ALL
    ),
    "albert": _Made(
        _albert,
        "words",
        {"lm": t.AlbertForMaskedLM, "classifier": t.AlbertForSequenceClassification, "encoder": t.AlbertModel},
        _ALL,
    ),
    "t5": _Made(_t5, "pieces", {"lm": t.T5ForConditionalGeneration, "encoder": t.T5EncoderModel}, _ALL),
    "bart": _Made(_bart, "words", {"lm": t.BartForConditionalGeneration}, _ALL),
    "opt": _Made(
        _opt,
        "bytes",
        {"lm": t.OPTForCausalLM, "classifier": t.OPTForSequenceClassification, "encoder": t.OPTModel},
        ("lm",),
    ),
    "falcon_h1": _Made(_falcon_h1, "bytes", {"lm": t.FalconH1ForCausalLM}),
    "electra": _Made(
        _electra,
        "words",
        {"lm": t.ElectraForMaskedLM, "classifier": t.ElectraForSequenceClassification, "encoder": t.ElectraModel},
        ("lm",),
    ),
    "esm": _Made(
        _esm,
        "words",
        {"lm": t.EsmForMaskedLM, "classifier": t.EsmForSequenceClassification, "encoder": t.EsmModel},
        ("lm",),
    ),
    "gemma": _Made(_gemma, "pieces", {"lm": t.GemmaForCausalLM, "classifier": t.GemmaForSequenceClassification}),
    "gemma3": _Made(
        _gemma3, "pieces", {"lm": t.Gemma3ForCausalLM, "classifier": t.Gemma3TextForSequenceClassification}
    ),
    "gemma3n": _Made(_gemma3n, "pieces", {"lm": t.Gemma3nForCausalLM}),
    "granite": _Made(_granite, "bytes", {"lm": t.GraniteForCausalLM}),
    "cohere": _Made(_cohere, "bytes", {"lm": t.CohereForCausalLM}),
    "cohere2": _Made(_cohere2, "bytes", {"lm": t.Cohere2ForCausalLM}),
    "phi": _Made(
        _grouped(t.PhiConfig), "bytes", {"lm": t.PhiForCausalLM, "classifier": t.PhiForSequenceClassification}
    ),
    "phi3": _Made(_grouped(t.Phi3Config), "pieces", {"lm": t.Phi3ForCausalLM}),
    "olmo2": _Made(_grouped(t.Olmo2Config), "bytes", {"lm": t.Olmo2ForCausalLM}),
    "gptneox": _Made(
        _gpt_neox, "bytes", {"lm": t.GPTNeoXForCausalLM, "classifier": t.GPTNeoXForSequenceClassification}
    ),
    "gptj": _Made(_gptj, "bytes", {"lm": t.GPTJForCausalLM}),
    "bloom": _Made(_bloom, "bytes", {"lm": t.BloomForCausalLM, "classifier": t.BloomForSequenceClassification}),
    "falcon": _Made(_falcon, "bytes", {"lm": t.FalconForCausalLM, "classifier": t.FalconForSequenceClassification}),
    "distilbert": _Made(
        _distilbert,
        "words",
        {
            "lm": t.DistilBertForMaskedLM,
            "classifier": t.DistilBertForSequenceClassification,
            "encoder": t.DistilBertModel,
        },
    ),
    "deberta": _Made(
        _deberta,
        "words",
        {
            "lm": t.DebertaV2ForMaskedLM,
            "classifier": t.DebertaV2ForSequenceClassification,
            "encoder": t.DebertaV2Model,
        },
    ),
    "modernbert": _Made(
        _modernbert,
        "words",
        {
            "lm": t.ModernBertForMaskedLM,
            "classifier": t.ModernBertForSequenceClassification,
            "encoder": t.ModernBertModel,
        },
    ),
    "xlmroberta": _Made(_xlm_roberta, "words", {"lm": t.XLMRobertaForMaskedLM}),
    "camembert": _Made(_camembert, "words", {"lm": t.CamembertForMaskedLM}),
    "pegasus": _Made(_pegasus, "pieces", {"lm": t.PegasusForConditionalGeneration}),
    "mbart": _Made(_mbart, "pieces", {"lm": t.MBartForConditionalGeneration}),
    "m2m100": _Made(_m2m100_config, "pieces", {"lm": _m2m100}),
    "mvp": _Made(_mvp, "words", {"lm": t.MvpForConditionalGeneration}),
    "led": _Made(_led, "words", {"lm": t.LEDForConditionalGeneration}),
    "switch": _Made(_switch, "pieces", {"lm": t.SwitchTransformersForConditionalGeneration}),
    "rembert": _Made(
        _rembert,
        "words",
        {"lm": t.RemBertForMaskedLM, "classifier": t.RemBertForSequenceClassification, "encoder": t.RemBertModel},
    ),
    "mobilebert": _Made(
        _mobilebert,
        "words",
        {
            "lm": t.MobileBertForMaskedLM,
            "classifier": t.MobileBertForSequenceClassification,
            "encoder": t.MobileBertModel,
        },
    ),
}


def _named(quick: bool) -> tuple[str, ...]:
    """Language models first, by their family's name alone."""
    made = [(name, kind) for name, row in _FAMILIES.items() for kind in row.classes if (kind in row.quick) == quick]
    models = [name for name, kind in made if kind == "lm"]
    return tuple(models + [f"{name}-{kind}" for name, kind in made if kind != "lm"])


FAMILIES = _named(quick=True)
SLOW_FAMILIES = _named(quick=False)
LANGUAGE_MODELS = tuple(name for name in FAMILIES if name in _FAMILIES)


def reads(family: str) -> bool:
    """Whether a family is one of text."""
    return family in (*FAMILIES, *SLOW_FAMILIES)
