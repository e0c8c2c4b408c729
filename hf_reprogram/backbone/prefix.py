"""What a decoder reads before the first word that is the answer's."""

from __future__ import annotations

from transformers import PreTrainedModel

from ..errors import BaseModelError
from .families import FAMILIES, Family


LANGUAGE = "forced_bos_token_id"  # the one that stands in the generation config


def prefix_of(base: PreTrainedModel, family: Family) -> tuple[int, ...]:
    """Token ids that the decoder reads before the answer, as the base's own `generate` would begin; () for bases
    without a decoder.

    Args:
        base: a model with a language model's head.
        family: its row of data.

    Raises:
        BaseModelError: nothing says what it begins with, or in which language it is to write.
    """
    name, config, prefix = type(base).__name__, base.config, []
    for step in family.decoder_prefix:
        token = language_of(base) if step == LANGUAGE else getattr(config, step, None)
        if token is not None:
            prefix.append(token)
        elif step != LANGUAGE:
            what = f"the decoder of a {name} begins with {step}, and its config has none"
            fix = f"base.config.{step} = ..., of mBART the code of the language that is to be written"
            raise BaseModelError("model", what, "a token id", fix)
        elif prefix == [config.eos_token_id]:  # else the start is the language's code itself
            what = f"the decoder of a {name} begins with the code of a language, and none is set"
            fix = f"base.generation_config.{LANGUAGE} = tokenizer.convert_tokens_to_ids('eng_Latn'), or as it calls it"
            raise BaseModelError("model", what, "the token id of a language", fix)
    return tuple(prefix)


def language_of(base: PreTrainedModel) -> int | None:
    """The token that `generate` is told to write first; None where it is free, or the family's rows never ask."""
    row = FAMILIES.get(base.config.model_type)
    writes = base.config.is_encoder_decoder and base.main_input_name == "input_ids"
    if not writes or (row is not None and LANGUAGE not in row.decoder_prefix):
        return None
    return getattr(getattr(base, "generation_config", None), LANGUAGE, None)
