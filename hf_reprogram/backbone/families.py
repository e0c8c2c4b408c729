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
        head: path of the output `Linear` (vocabulary, dim) of the language model.
        transform: what stands between hidden state and head, in order: paths of position-wise modules, or `@name` of
            an activation of transformers that is no module there.
        state_scale: name of a config flag; where true, hidden states are multiplied by d_model ** -0.5 (T5).
        softcap: name of a config number c; where it is set, logits become c * tanh(logits / c) (Gemma 2).
        logits_bias: path of a (1, vocabulary) buffer added to the logits, or None.
        causal: whether a position sees only those before it; such a family answers at its last position.
        classify: paths of the modules from one hidden state to the logits of a sequence classifier, in order; () where
            the family's classifier cannot be fed embeddings.
        classify_sequence: the first of these takes (batch, time, dim) and picks the first position itself.
        offset_positions: positions count from the pad id + 1, and padding has the pad id (RoBERTa).
        token_types: whether `token_type_ids` are what they are called (GPT-2 looks them up among the words).
        sides: padding sides on which the base itself is exact.
        decoder_prefix: names in the config of the token ids that a decoder reads before the answer.
    """

    body: str
    embed: str
    head: str
    transform: tuple[str, ...] = ()
    state_scale: str | None = None
    softcap: str | None = None
    logits_bias: str | None = None
    causal: bool = False
    classify: tuple[str, ...] = ()
    classify_sequence: bool = False
    offset_positions: bool = False
    token_types: bool = False
    sides: tuple[str, ...] = ("right", "left")
    decoder_prefix: tuple[str, ...] = ()


# Families that hear whose spectrogram goes by the name of a wave, `input_values`.
SPECTRA_AS_WAVES = frozenset({"audio-spectrogram-transformer"})

_LLAMA = Family(body="model", embed="embed_tokens", head="lm_head", causal=True, classify=("score",))

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "gemma2": replace(_LLAMA, softcap="final_logit_softcapping"),
    "gpt2": replace(_LLAMA, body="transformer", embed="wte"),
    "bert": Family(
        body="bert",
        embed="embeddings.word_embeddings",
        head="cls.predictions.decoder",
        transform=("cls.predictions.transform",),
        classify=("bert.pooler", "classifier"),
        classify_sequence=True,
        token_types=True,
    ),
    "roberta": Family(
        body="roberta",
        embed="embeddings.word_embeddings",
        head="lm_head.decoder",
        transform=("lm_head.dense", "@gelu", "lm_head.layer_norm"),
        classify=("classifier",),
        classify_sequence=True,
        offset_positions=True,
        token_types=True,
    ),
    "albert": Family(
        body="albert",
        embed="embeddings.word_embeddings",
        head="predictions.decoder",
        transform=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
        classify=("albert.pooler", "albert.pooler_activation", "classifier"),
        token_types=True,
    ),
    "t5": Family(
        body="",
        embed="encoder.embed_tokens",
        head="lm_head",
        state_scale="scale_decoder_outputs",
        decoder_prefix=("decoder_start_token_id",),
    ),
    # BART has no position ids to pass, so only right padding is exact; its labels keep <s>, so the first free decoder
    # position is the second (N16).
    "bart": Family(
        body="model",
        embed="encoder.embed_tokens",
        head="lm_head",
        logits_bias="final_logits_bias",
        sides=("right",),
        decoder_prefix=("decoder_start_token_id", "bos_token_id"),
    ),
}
