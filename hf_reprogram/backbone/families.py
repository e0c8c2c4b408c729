"""What differs between model families, as rows of DATA. A new family is a new row; code asks the row, never the name.

Rows are proved at wrap time by `probe.py`: a wrong row is refused with the numbers it gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Where the parts of a family lie, and what happens between body and logits.

    Args:
        body: path, in a model with a head, of the module that gives hidden states; for seq2seq of the module that
            holds encoder and decoder. A bare model is its own body.
        embed: path below the body of the embedding module whose CALL gives what the body takes as `inputs_embeds`.
        embed_scale: path below the body of a number by which it multiplies what it embeds itself, and not what it is
            given as `inputs_embeds` (T§0.2 2).
        reads_ids: the body does more with token ids than embed them. It gets ids, and embeddings take the place of
            what its embedding module gives for them, for one call (T§0.1 1).
        state: name in the config of the size of hidden states.
        head: path of the output `Linear` (vocabulary, dim) of the language model.
        head_rest: path of a `Linear` that holds the rest of the output matrix as (rest of dim, vocabulary), where the
            head is as narrow as the embeddings (MobileBERT).
        transform: what stands between hidden state and head, in order: paths of position-wise modules, or `@name` of
            an activation of transformers that is no module there.
        state_scale: name of a config flag; where true, hidden states are multiplied by d_model ** -0.5 (T5).
        softcap: name of a config number c; where it is set, logits become c * tanh(logits / c) (Gemma 2).
        logits_bias: path of a buffer or parameter of as many numbers as the vocabulary, added to the logits.
        logits_scale: name of a config number by which logits are multiplied (Cohere).
        logits_divisor: name of a config number by which they are divided (Granite).
        causal: whether a position sees only those before it; such a family answers at its last position.
        classify: like `transform`, from one hidden state to the logits of a sequence classifier; () where the family's
            classifier cannot be fed embeddings.
        classify_sequence: the first of these takes (batch, time, dim) and picks the first position itself.
        classify_pool: name in the config of how a classifier pools, `cls` or `mean`; None where it never means.
        looks_beside: the body puts the tokens left and right of each one into its embedding, masked or not. Padding is
            given as zeros, which is what lies beyond a row's end (T§0.1 7).
        offset_positions: positions count from the pad id + 1, and padding has the pad id (RoBERTa).
        token_types: whether `token_type_ids` are what they are called (GPT-2 looks them up among the words).
        sides: padding sides on which the base itself is exact.
        decoder_prefix: names in the config of the token ids that a decoder reads before the answer;
            `forced_bos_token_id`, of the language that a decoder is to write, in the generation config.
        limits: names in the config of how many positions can be read, and written by a decoder.
    """

    body: str
    embed: str
    head: str
    embed_scale: str | None = None
    reads_ids: bool = False
    head_rest: str | None = None
    state: str = "hidden_size"
    transform: tuple[str, ...] = ()
    state_scale: str | None = None
    softcap: str | None = None
    logits_bias: str | None = None
    logits_scale: str | None = None
    logits_divisor: str | None = None
    causal: bool = False
    classify: tuple[str, ...] = ()
    classify_sequence: bool = False
    classify_pool: str | None = None
    looks_beside: bool = False
    offset_positions: bool = False
    token_types: bool = False
    sides: tuple[str, ...] = ("right", "left")
    decoder_prefix: tuple[str, ...] = ()
    limits: tuple[str, str] = ("max_position_embeddings", "max_position_embeddings")


# Families that hear whose spectrogram goes by the name of a wave, `input_values`.
SPECTRA_AS_WAVES = frozenset({"audio-spectrogram-transformer"})

_LLAMA = Family(body="model", embed="embed_tokens", head="lm_head", causal=True, classify=("score",))
_CAPPED = replace(_LLAMA, softcap="final_logit_softcapping")
_GPT2 = replace(_LLAMA, body="transformer", embed="wte")
_BERT = Family(
    body="bert",
    embed="embeddings.word_embeddings",
    head="cls.predictions.decoder",
    transform=("cls.predictions.transform",),
    classify=("bert.pooler", "classifier"),
    classify_sequence=True,
    token_types=True,
)
_ROBERTA = replace(
    _BERT,
    body="roberta",
    head="lm_head.decoder",
    transform=("lm_head.dense", "@gelu", "lm_head.layer_norm"),
    classify=("classifier",),
    offset_positions=True,
)
_T5 = Family(
    body="",
    embed="encoder.embed_tokens",
    head="lm_head",
    state_scale="scale_decoder_outputs",
    decoder_prefix=("decoder_start_token_id",),
)
# BART has no position ids to pass, so only right padding is exact; its labels keep <s>, so the first free decoder
# position is the second (N16).
_BART = Family(
    body="model",
    embed="encoder.embed_tokens",
    head="lm_head",
    logits_bias="final_logits_bias",
    sides=("right",),
    decoder_prefix=("decoder_start_token_id", "bos_token_id"),
)
# The language that is written comes first: as the start itself (mBART), or forced after it (mBART-50, NLLB).
_MBART = replace(_BART, decoder_prefix=("decoder_start_token_id", "forced_bos_token_id"))

FAMILIES: dict[str, Family] = {
    # Asked, not run (hf_reprogram.sources.remote)
    "remote_text": Family(body="model", embed="embed_tokens", head="", classify=("score",)),
    # Causal
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "olmo2": _LLAMA,
    "phi": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _CAPPED,
    "gemma3_text": _CAPPED,
    "gemma3n_text": replace(_CAPPED, reads_ids=True),  # they embed ids once more for every layer (T§0.2 9)
    "gemma4_text": replace(_CAPPED, reads_ids=True),
    "granite": replace(_LLAMA, logits_divisor="logits_scaling"),
    "cohere": replace(_LLAMA, logits_scale="logit_scale"),
    "cohere2": replace(_LLAMA, logits_scale="logit_scale"),
    "falcon_h1": replace(_LLAMA, embed_scale="embedding_multiplier", logits_scale="lm_head_multiplier"),
    "opt": replace(_LLAMA, embed="decoder.embed_tokens", state="word_embed_proj_dim"),
    "gpt2": _GPT2,
    "gptj": _GPT2,
    "gpt_neox": replace(_LLAMA, body="gpt_neox", embed="embed_in"),
    "bloom": replace(_GPT2, embed="word_embeddings"),
    "falcon": replace(_GPT2, embed="word_embeddings"),
    # Masked
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "albert": replace(
        _BERT,
        body="albert",
        head="predictions.decoder",
        transform=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
        classify=("albert.pooler", "albert.pooler_activation", "classifier"),
        classify_sequence=False,
    ),
    "distilbert": replace(
        _BERT,
        body="distilbert",
        head="vocab_projector",
        transform=("vocab_transform", "activation", "vocab_layer_norm"),
        classify=("pre_classifier", "@relu", "classifier"),
        classify_sequence=False,
        token_types=False,
    ),
    "electra": replace(
        _BERT,
        body="electra",
        head="generator_lm_head",
        transform=("generator_predictions",),
        classify=("classifier",),
    ),
    "deberta-v2": replace(_BERT, body="deberta", classify=("pooler", "classifier")),
    "modernbert": replace(
        _BERT,
        body="model",
        embed="embeddings.tok_embeddings",
        head="decoder",
        transform=("head",),
        classify=("head", "classifier"),
        classify_sequence=False,
        classify_pool="classifier_pooling",
        token_types=False,
    ),
    # It zeroes masks and scales by how many there are, where it gets ids (T§0.2 8).
    "esm": replace(_ROBERTA, body="esm", reads_ids=True, logits_bias="lm_head.bias", token_types=False),
    "rembert": replace(
        _BERT,
        body="rembert",
        transform=("cls.predictions.dense", "cls.predictions.activation", "cls.predictions.LayerNorm"),
        classify=("rembert.pooler", "classifier"),
    ),
    "mobilebert": replace(
        _BERT,
        body="mobilebert",
        head_rest="cls.predictions.dense",
        classify=("mobilebert.pooler", "classifier"),
        looks_beside=True,
    ),
    # Encoder and decoder
    "t5": _T5,
    "mt5": replace(_T5, state_scale=None),
    "umt5": replace(_T5, state_scale="tie_word_embeddings"),
    # An expert takes so many tokens of a row and no more, and padding that comes before them takes their places.
    "switch_transformers": replace(_T5, state_scale="tie_word_embeddings", sides=("right",)),
    "bart": _BART,
    "mbart": _MBART,
    "m2m_100": replace(_MBART, logits_bias=None),
    "mvp": replace(_BART, embed_scale="encoder.embed_scale"),
    "led": replace(_BART, body="led", limits=("max_encoder_position_embeddings", "max_decoder_position_embeddings")),
    "pegasus": replace(_BART, embed_scale="encoder.embed_scale", decoder_prefix=("decoder_start_token_id",)),
}
