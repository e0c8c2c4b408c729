"""Reparametrised prompts: by hand, where they start, and that they fold to plain vectors (N27)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, flags, logits_of, tiny
from hf_reprogram.testing.helpers import loss_of, train_step


FORMS = {"residual": {"bottleneck": 8}, "low_rank": {"rank": 2}}


def _config(form: str, **options: object) -> ReprogramConfig:
    return ReprogramConfig(
        program={
            "type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}", "parametrisation": form,
            **FORMS.get(form, {}), **options,
        },
        mapping={"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}},
    )  # fmt: skip


def _model(form: str, family: str = "llama", **options: object) -> ReprogramModel:
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, _config(form, **options), tokenizer)


def test_residual_by_hand() -> None:
    """p' = p + W2 relu(W1 p + b1) + b2 with p = (2, -1, 0 ...), one hidden unit that sees p_0."""
    program = _model("residual", bottleneck=1).active_programs()[0]
    with torch.no_grad():
        for p in program.parameters():
            p.zero_()
        program.slots[0, 0], program.slots[1, 0] = 2.0, -2.0
        program.inner[0, 0], program.inner_bias[0] = 3.0, 1.0
        program.outer[1, 0], program.outer_bias[2] = 0.5, 7.0
        units = program.units()
    assert units[0, :3].tolist() == [2.0, 3.5, 7.0]  # relu(3 * 2 + 1) / 2
    assert units[1, :3].tolist() == [-2.0, 0.0, 7.0]  # relu(3 * -2 + 1) = 0


def test_low_rank_starts_at_the_best_approximation_of_the_free_start() -> None:
    free, low = (_model(form).active_programs()[0].units().detach() for form in ("free", "low_rank"))
    u, s, v = torch.linalg.svd(free)
    best = u[:, :2] * s[:2] @ v[:2]
    torch.testing.assert_close(low, best, atol=1e-5, rtol=0)


def test_residual_starts_near_the_free_start() -> None:
    free, residual = (_model(form).active_programs()[0].units().detach() for form in ("free", "residual"))
    assert (residual - free).norm() < 0.2 * free.norm()


@pytest.mark.parametrize("form", FORMS)
class TestFold:
    @pytest.mark.parametrize("family", ["llama", "albert", "t5"])
    def test_folded_scores_are_those_of_the_unfolded(self, form: str, family: str) -> None:
        model = _model(form, family)
        train_step(model)
        before = logits_of(model, ROWS)
        model.fold()
        torch.testing.assert_close(logits_of(model, ROWS), before, atol=1e-6, rtol=0)
        assert model.peft_config["default"].program.parametrisation == "free"
        names = list(model.base_model.state("default"))
        assert names == ["program.0.slots"]

    def test_a_folded_program_goes_on_training_or_stays_frozen(self, form: str) -> None:
        model = _model(form)
        model.fold()
        model.train()
        loss_of(model, ROWS).backward()
        assert model.active_programs()[0].slots.grad.abs().sum() > 0
        frozen = _model(form)
        frozen.base_model.set_requires_grad("default", False)
        frozen.fold()
        assert not any(p.requires_grad for p in frozen.parameters())

    def test_the_trainable_form_is_what_is_saved_and_goes_on(self, form: str, tmp_path: Path) -> None:
        """DESIGN 4.8: any saved program can be continued; folded ones only where that was asked for."""
        model = _model(form)
        model.save_pretrained(tmp_path / "trainable")
        model.fold(into="plain")
        assert set(model.peft_config) == {"default", "plain"}
        model.save_pretrained(tmp_path / "plain", selected_adapters=["plain"])
        for name, numbers in (("trainable", None), ("plain", 5 * 32)):
            base, tokenizer = tiny("llama")
            again = AutoReprogramModel.from_pretrained(tmp_path / name, base, tokenizer, is_trainable=True)
            torch.testing.assert_close(logits_of(again, ROWS), logits_of(model, ROWS), atol=1e-6, rtol=0)
            trained = sum(p.numel() for p in again.parameters() if p.requires_grad)
            assert numbers is None or trained == numbers

    def test_into_a_name_that_exists_or_is_none_is_refused_or_replaced(self, form: str) -> None:
        model = _model(form)
        found = flags(model.backbone.base)
        with pytest.raises(ConfigError, match="adapter_name"):
            model.fold(into="no.dots")
        assert flags(model.backbone.base) == found
        assert model.peft_config["default"].program.parametrisation == form


def test_folding_what_is_plain_changes_nothing() -> None:
    model = _model("free")
    before = logits_of(model, ROWS)
    model.fold()
    assert torch.equal(logits_of(model, ROWS), before)


def test_mixed_rows_of_all_forms_share_one_bank() -> None:
    model = _model("free")
    for form in FORMS:
        model.add_adapter(form, _config(form))
    names = ["default", "residual", "low_rank"] * 2
    mixed = logits_of(model, [{**row, "adapter": name} for row, name in zip(ROWS, names, strict=True)])
    for i, (row, name) in enumerate(zip(ROWS, names, strict=True)):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[i], logits_of(model, [row])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [5, 32])
def test_a_rank_that_saves_nothing_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match="PromptConfig.rank.*5 slots of width 32.*less than 5"):
        _model("low_rank", rank=rank)
