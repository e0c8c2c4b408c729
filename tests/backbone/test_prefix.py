"""What a decoder reads before the answer: its start, the language where one is written, or a reason."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import BaseModelError
from hf_reprogram.fingerprint import config_fields
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import ROWS, build, program_config, tiny


CODE, END = 7, 3


def base_of(family: str, start: int | None = None, language: int | None = None) -> t.PreTrainedModel:
    base = tiny(family)[0]
    base.config.decoder_start_token_id = start
    base.generation_config.forced_bos_token_id = language
    return base


@pytest.mark.parametrize(
    ("family", "start", "language", "prefix"),
    [
        ("mbart", CODE, None, (CODE,)),  # of one language: its code is the start
        ("mbart", END, CODE, (END, CODE)),  # mBART-50
        ("m2m100", END, CODE, (END, CODE)),  # and NLLB
        ("bart", END, CODE, (END, 2)),  # its labels keep <s> (N16), whatever is forced
        ("t5", 0, CODE, (0,)),
    ],
)
def test_it_is_what_generate_begins_with(family: str, start: int, language: int | None, prefix: tuple) -> None:
    assert TextBackbone(base_of(family, start, language)).decoder_prefix == prefix


def test_an_encoder_alone_has_no_decoder_to_begin() -> None:
    base, tokenizer = tiny("t5-encoder")
    base.config.decoder_start_token_id = None
    assert TextBackbone(base).decoder_prefix == ()
    mapping = {"type": "linear", "on": "state", "pool": "mean"}
    config = ReprogramConfig(program={"type": "none", "template": "{text}"}, mapping=mapping, labels=["a", "b"])
    get_reprogram_model(base, config, tokenizer)


def test_a_family_without_a_row_begins_with_what_generate_forces() -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 1}
    base = t.PLBartForConditionalGeneration(t.PLBartConfig(vocab_size=97, decoder_start_token_id=2, **sizes)).eval()
    assert TextBackbone(base).decoder_prefix == (2,)
    base.generation_config.forced_bos_token_id = 9
    assert TextBackbone(base).decoder_prefix == (2, 9)


@pytest.mark.parametrize("family", ["mbart", "m2m100"])
def test_a_language_that_nobody_said_is_asked_for(family: str) -> None:
    """Without it the answer would be read where the base says which language it takes the text for."""
    with pytest.raises(BaseModelError, match=r"code of a language, and none is set.*generation_config\.forced_bos"):
        get_reprogram_model(base_of(family, END), program_config("prompt", family), tiny(family)[1])


def test_a_start_that_nobody_said_is_asked_for() -> None:
    """mBART's first checkpoints have none: each call says it."""
    with pytest.raises(BaseModelError, match=r"begins with decoder_start_token_id, and its config has none.*language"):
        TextBackbone(base_of("mbart")).decoder_prefix  # noqa: B018


def test_the_answer_is_read_after_the_language() -> None:
    """And so it is that of `generate`, whose first free token is the likeliest one there."""
    model = build(program_config("prompt", "m2m100"), "m2m100")
    rows = [{"text": ROWS[0]["text"]}]
    batch = model.backbone.plain(model.reprogrammed.batch(**model.collator(disabled=True)(rows)))
    own = model.backbone.base.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=2, do_sample=False
    )
    assert own[0, :2].tolist() == [END, CODE]
    assert int(model.backbone.base_output(batch).logits[0, 1].argmax()) == int(own[0, 2])


def test_another_language_is_another_base() -> None:
    """A program that was made for one must not be loaded on the other."""
    fields = [config_fields(base_of("m2m100", END, language)) for language in (CODE, 8)]
    assert fields[0] != fields[1]
    assert config_fields(base_of("bart", END, CODE)) == config_fields(base_of("bart", END, 8))
    assert torch.equal(*[tiny("m2m100")[0].lm_head.weight for _ in range(2)])  # the same weights
