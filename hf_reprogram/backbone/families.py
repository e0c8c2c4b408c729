"""What differs between model families, as rows of DATA. A new family is a new row; code asks the row, never the name.

Rows are proved at wrap time by `probe.py`: a wrong row is refused with the numbers it gave.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Where the parts of a family lie below the base, and what happens between body and logits.

    Args:
        body: path of the module that gives hidden states; for seq2seq the module that holds encoder and decoder.
        head: path of the output `Linear` (vocabulary, dim).
        embed: path of the embedding module whose CALL gives what the body expects as `inputs_embeds`.
        transform: paths of position-wise modules between hidden state and head, in order.
        state_scale: name of a config flag; where true, hidden states are multiplied by d_model ** -0.5 (T5).
        logits_bias: path of a (1, vocabulary) buffer added to the logits, or None.
        sides: padding sides on which the base itself is exact.
        decoder_prefix: names in the config of the token ids that a decoder reads before the answer.
    """

    body: str
    head: str
    embed: str
    transform: tuple[str, ...] = ()
    state_scale: str | None = None
    logits_bias: str | None = None
    sides: tuple[str, ...] = ("right", "left")
    decoder_prefix: tuple[str, ...] = ()


_LLAMA = Family(body="model", head="lm_head", embed="model.embed_tokens")

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "bert": Family(
        body="bert",
        head="cls.predictions.decoder",
        embed="bert.embeddings.word_embeddings",
        transform=("cls.predictions.transform",),
    ),
    "albert": Family(
        body="albert",
        head="predictions.decoder",
        embed="albert.embeddings.word_embeddings",
        transform=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
    ),
    "t5": Family(
        body="",
        head="lm_head",
        embed="encoder.embed_tokens",
        state_scale="scale_decoder_outputs",
        decoder_prefix=("decoder_start_token_id",),
    ),
    # BART has no position ids to pass, so only right padding is exact; its labels keep <s>, so the first free decoder
    # position is the second (N16).
    "bart": Family(
        body="model",
        head="lm_head",
        embed="model.encoder.embed_tokens",
        logits_bias="final_logits_bias",
        sides=("right",),
        decoder_prefix=("decoder_start_token_id", "bos_token_id"),
    ),
}
