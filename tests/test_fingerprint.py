"""The fingerprint: what is another base, and what is the same one rounded; nothing is computed twice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import hf_reprogram as hr
from hf_reprogram import fingerprint
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.errors import ArtefactError
from hf_reprogram.fingerprint import identity
from hf_reprogram.testing import ROWS, build, logits_of, program_config, tiny
from tests.artefact_kit import forge


FAMILIES = ("llama", "bert", "t5")


def saved_on(base: PreTrainedModel, tokenizer: Any, folder: Path) -> hr.ReprogramModel:
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    model.save_pretrained(folder)
    return model


def loaded_on(base: PreTrainedModel, tokenizer: Any, folder: Path) -> hr.ReprogramModel:
    return hr.AutoReprogramModel.from_pretrained(folder, base, tokenizer)


class TestServedInBfloat16:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_same_weights_rounded(self, family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = saved_on(*tiny(family), tmp_path)
        base, tokenizer = tiny(family)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            served = loaded_on(base.to(torch.bfloat16), tokenizer, tmp_path)
        assert [r.message.partition(" was ")[2] for r in caplog.records] == [
            "trained on its base in float32 and runs on the same weights in bfloat16: scores differ by rounding."
        ]
        exact, rounded = logits_of(model, ROWS), logits_of(served, ROWS)
        assert not torch.equal(exact, rounded)
        assert (exact - rounded).abs().max() <= 0.06 * exact.abs().max()

    def test_loaded_by_name(self, tmp_path: Path) -> None:
        base, tokenizer = tiny("llama")
        for part in (base, tokenizer):
            part.save_pretrained(tmp_path / "base")
        saved_on(type(base).from_pretrained(tmp_path / "base"), tokenizer, tmp_path / "program")
        served = hr.AutoReprogramModel.from_pretrained(tmp_path / "program", dtype=torch.bfloat16)
        assert served.backbone.dtype == torch.bfloat16

    def test_saved_again_it_stays_one_of_the_base_in_which_it_was_trained(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        saved_on(*tiny("llama"), tmp_path / "a")
        base, tokenizer = tiny("llama")
        served = loaded_on(base.to(torch.bfloat16), tokenizer, tmp_path / "a")
        caplog.clear()
        served.save_pretrained(tmp_path / "b")
        assert not caplog.records
        again = loaded_on(*tiny("llama"), tmp_path / "b")
        assert again.peft_config["default"].fingerprint == served.peft_config["default"].fingerprint

    def test_the_other_way_round(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        base, tokenizer = tiny("llama")
        saved_on(base.to(torch.bfloat16), tokenizer, tmp_path)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            loaded_on(*tiny("llama"), tmp_path)
        assert "in bfloat16 and runs on the same weights in float32" in caplog.text

    def test_beside_another_program(self, tmp_path: Path) -> None:
        saved_on(*tiny("llama"), tmp_path)
        base, tokenizer = tiny("llama")
        model = hr.get_reprogram_model(base.to(torch.bfloat16), program_config("prompt"), tokenizer)
        model.load_adapter(tmp_path, "loaded")

    def test_an_exact_base_says_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        saved_on(*tiny("llama"), tmp_path)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            loaded_on(*tiny("llama"), tmp_path)
        assert caplog.text == ""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
    def test_no_other_type(self, dtype: torch.dtype, tmp_path: Path) -> None:
        saved_on(*tiny("llama"), tmp_path)
        base, tokenizer = tiny("llama")
        with pytest.raises(ArtefactError, match="a base in another dtype"):
            loaded_on(base.to(dtype), tokenizer, tmp_path)

    def test_no_other_weights(self, tmp_path: Path) -> None:
        saved_on(*tiny("llama"), tmp_path)
        base, tokenizer = tiny("llama")
        with torch.no_grad():
            base.model.layers[0].mlp.up_proj.weight[0, 0] *= 1.01  # more than the half of a bfloat16 step
        with pytest.raises(ArtefactError, match="a base in another dtype"):
            loaded_on(base.to(torch.bfloat16), tokenizer, tmp_path)

    def test_of_one_type_rounded_weights_prove_nothing(self, tmp_path: Path) -> None:
        """In float32 a fine-tuned copy may round to the very same bfloat16 numbers."""
        saved_on(*tiny("llama"), tmp_path)
        base, tokenizer = tiny("llama")
        with torch.no_grad():
            base.model.norm.weight[0] = base.model.norm.weight[0].nextafter(torch.tensor(9.0))
        with pytest.raises(ArtefactError, match="a base with other weights"):
            loaded_on(base, tokenizer, tmp_path)

    def test_programs_saved_before_there_was_such_a_digest(self, tmp_path: Path) -> None:
        saved_on(*tiny("llama"), tmp_path)
        forge(tmp_path, config=lambda c: c["fingerprint"].pop("rounded"))
        loaded_on(*tiny("llama"), tmp_path)
        base, tokenizer = tiny("llama")
        with pytest.raises(ArtefactError, match="a base in another dtype: float32 is not bfloat16"):
            loaded_on(base.to(torch.bfloat16), tokenizer, tmp_path)


class TestOnce:
    """What is asked of the same tensors again is not computed again."""

    def test_the_unit_of_programs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        rms = TextBackbone.rms
        monkeypatch.setattr(TextBackbone, "rms", lambda self: asked.append(1) or rms(self))
        model = build(program_config("prompt"), "llama")
        for i in range(3):
            model.add_adapter(f"p{i}", program_config("prompt"))
        assert len(asked) == 1
        before = model.peft_config["default"].embedding_rms
        with torch.no_grad():
            model.backbone.embedding.weight.mul_(2)
        model.add_adapter("other", program_config("prompt"))
        assert model.peft_config["other"].embedding_rms == pytest.approx(2 * before) and len(asked) == 2

    def test_the_digests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base, tokenizer = tiny("llama")
        asked, digest = [], fingerprint.tensor_digest
        monkeypatch.setattr(fingerprint, "tensor_digest", lambda *a: asked.append(1) or digest(*a))
        first = identity(base, tokenizer)
        assert identity(base, tokenizer) == first and len(asked) == 2
        with torch.no_grad():
            base.lm_head.weight[3, 4] += 1
        assert identity(base, tokenizer)["weights"] != first["weights"] and len(asked) == 4


class TestWrittenThroughData:
    """PEFT merges through `.data`, which no version counts."""

    def test_a_merged_base_is_another(self, tmp_path: Path) -> None:
        base, tokenizer = tiny("llama")
        saved_on(base, tokenizer, tmp_path / "before").unload()
        base.model.layers[0].self_attn.q_proj.weight.data += 0.5
        with pytest.raises(ArtefactError, match="other weights"):
            loaded_on(base, tokenizer, tmp_path / "before")
        saved_on(base, tokenizer, tmp_path / "after")
        with pytest.raises(ArtefactError, match="other weights"):
            loaded_on(*tiny("llama"), tmp_path / "after")

    def test_a_base_that_was_changed_while_it_was_wrapped(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A program answers for the base under which it was saved, not for the one that was wrapped."""
        base, tokenizer = tiny("llama")
        model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
        base.model.layers[0].self_attn.q_proj.weight.data += 0.5
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            model.save_pretrained(tmp_path / "program")
        assert "changed after it was wrapped (weights, rounded)" in caplog.text
        answers = model.score(ROWS)
        model.unload().save_pretrained(tmp_path / "base")
        with pytest.raises(ArtefactError, match="other weights"):
            loaded_on(*tiny("llama"), tmp_path / "program")
        again = hr.AutoReprogramModel.from_pretrained(tmp_path / "program", tmp_path / "base", tokenizer)
        assert torch.equal(again.score(ROWS), answers)

    def test_a_base_that_stayed_says_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            model = saved_on(*tiny("llama"), tmp_path)
            model.predict(ROWS)
            model.save_pretrained(tmp_path)
        assert not caplog.records

    def test_frozen_rows_of_the_base_before(self) -> None:
        config = hr.ReprogramConfig(
            program={"type": "none", "template": "{text}"},
            mapping=hr.LinearConfig(on="state", pool="mean"),
            labels=["negative", "positive"],
        )
        model = build(config, "bert-encoder")
        rows = model.frozen_rows(ROWS)
        model.backbone.base.encoder.layer[0].output.dense.weight.data += 0.5
        with pytest.raises(hr.errors.UsageError, match="frozen rows"):
            model.fit_mapping(rows)
