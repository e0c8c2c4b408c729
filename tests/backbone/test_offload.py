"""Bases that lie on the disk or in another memory: scored, trained, recognised, given back (E§0 9, 10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from transformers import PreTrainedModel

import hf_reprogram as hr
from hf_reprogram.fingerprint import base_fingerprint
from hf_reprogram.testing import ROWS, logits_of, program_config, tiny


FAMILIES = ("llama", "bert", "t5")
PARTS = {
    "llama": ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"],
    "bert": ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "cls"],
    "t5": [
        "shared",
        "encoder.block",
        "encoder.embed_tokens",
        "encoder.final_layer_norm",
        "encoder.dropout",
        "decoder",
        "lm_head",
    ],  # fmt: skip
}
TRAINED_ROWS = {
    "program": {"type": "none", "template": "{text} it was{answer}"},
    "mapping": {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}, "rows": "trained"},
}


@pytest.fixture(params=["a block on the disk", "all on the disk", "in another memory", "accelerate's own"])
def offloaded(request: Any, tmp_path: Path) -> Any:
    """Makes an offloaded twin of a tiny base."""

    def make(family: str) -> PreTrainedModel:
        base, _ = tiny(family)
        if request.param == "in another memory":
            return cpu_offload(base, execution_device="cpu")
        if request.param == "accelerate's own":
            return disk_offload(base, tmp_path / "disk", execution_device="cpu")
        base.save_pretrained(tmp_path / "base")
        away = PARTS[family][1:2] if "block" in request.param else PARTS[family]
        places = {part: "disk" if part in away else "cpu" for part in PARTS[family]}
        return type(base).from_pretrained(tmp_path / "base", device_map=places, offload_folder=tmp_path / "disk")

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_base_that_it_was(family: str, offloaded: Any, tmp_path: Path) -> None:
    base, tokenizer = tiny(family)
    there = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    there.save_pretrained(tmp_path / "program")
    away = offloaded(family)
    assert any(p.device.type == "meta" for p in away.parameters())
    assert base_fingerprint(away) == base_fingerprint(base)
    model = hr.AutoReprogramModel.from_pretrained(tmp_path / "program", away, tokenizer, is_trainable=True)
    torch.testing.assert_close(logits_of(model, ROWS), logits_of(there, ROWS), atol=1e-6, rtol=0)

    for one in (there, model):
        one(**one.collator()(ROWS)).loss.backward()
    theirs, ours = (one.active_programs()[0].slots.grad for one in (there, model))
    assert ours.device.type == "cpu" and ours.abs().sum() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_head_that_is_away(family: str, offloaded: Any) -> None:
    base, tokenizer = tiny(family)
    vectors = [
        hr.get_reprogram_model(b, hr.ReprogramConfig(**TRAINED_ROWS), tokenizer).active_mapping().vectors
        for b in (base, offloaded(family))
    ]
    torch.testing.assert_close(vectors[1], vectors[0], atol=1e-6, rtol=0)


def test_flags_come_back_although_its_parameters_are_made_anew(offloaded: Any) -> None:
    """accelerate replaces the parameters in every pass: written down by object, the flags would be lost."""
    base, tokenizer = offloaded("llama"), tiny("llama")[1]
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    model.predict(ROWS)
    assert not any(p.requires_grad for p in base.parameters())
    assert all(p.requires_grad for p in model.unload().parameters())


def test_it_is_hidden_from_pefts_own_dispatch(offloaded: Any) -> None:
    """E§0 10: with `hf_device_map` in sight PEFT dispatches the base anew, under names that do not exist."""
    model = hr.get_reprogram_model(offloaded("llama"), program_config("prompt"), tiny("llama")[1])
    assert not hasattr(model.reprogrammed, "hf_device_map")
