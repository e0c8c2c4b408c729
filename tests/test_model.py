"""Ways to a model: made, loaded on a resident base, loaded over itself; what PEFT's own ways say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError, BaseModelError, ConfigError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, build, flags, logits_of, mapping_config, program_config, tiny


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, ReprogramModel]:
    """A folder with a program that is not at its start, and the model it came from."""
    model = build(program_config("prompt"), "llama")
    with torch.no_grad():
        model.active_programs()[0].slots.add_(0.5)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_pefts_signature_on_a_resident_base(saved: tuple[Path, ReprogramModel]) -> None:
    folder, model = saved
    base, tokenizer = tiny("llama")
    again = ReprogramModel.from_pretrained(base, folder, processing_class=tokenizer)
    assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))
    assert not any(p.requires_grad for p in again.parameters()) and not again.training


def test_loaded_to_go_on_training(saved: tuple[Path, ReprogramModel]) -> None:
    base, tokenizer = tiny("llama")
    again = hr.AutoReprogramModel.from_pretrained(saved[0], base, tokenizer, is_trainable=True)
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        "base_model.model.program.reprogram_program.default.0.slots"
    ]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own (E§0 18)
def test_pefts_own_ways_say_which_way_is_right(saved: tuple[Path, ReprogramModel]) -> None:
    """E§0 16: they ended in `No target_modules passed`."""
    base, _ = tiny("llama")
    with pytest.raises(BaseModelError, match="AutoReprogramModel"):
        PeftModel.from_pretrained(base, str(saved[0]))


def test_loading_over_itself_keeps_the_optimisers_parameters(saved: tuple[Path, ReprogramModel]) -> None:
    folder, model = saved
    parameter, value = model.active_programs()[0].slots, model.active_programs()[0].slots.detach().clone()
    with torch.no_grad():
        parameter.zero_()
    model.load_adapter(folder, "default")
    assert model.active_programs()[0].slots is parameter and torch.equal(parameter, value)
    assert parameter.requires_grad


def test_loading_another_method_over_a_name_replaces_it(saved: tuple[Path, ReprogramModel], tmp_path: Path) -> None:
    _, model = saved
    other = build(mapping_config("linear"), "llama")
    other.save_pretrained(tmp_path / "other")
    model.load_adapter(tmp_path / "other", "default")
    torch.testing.assert_close(logits_of(model, ROWS), logits_of(other, ROWS))


def test_programs_are_saved_side_by_side(saved: tuple[Path, ReprogramModel], tmp_path: Path) -> None:
    _, model = saved
    model.add_adapter("second", program_config("prompt"), seed=3)
    model.save_pretrained(tmp_path / "both")
    base, tokenizer = tiny("llama")
    again = hr.AutoReprogramModel.from_pretrained(tmp_path / "both", base, tokenizer)
    again.load_adapter(tmp_path / "both", "second", subfolder="second")
    for name in ("default", "second"):
        rows = [{**row, "adapter": name} for row in ROWS]
        assert torch.equal(logits_of(again, rows), logits_of(model, rows))


def test_a_failed_load_leaves_the_model_as_it_was(saved: tuple[Path, ReprogramModel], tmp_path: Path) -> None:
    _, model = saved
    before = logits_of(model, ROWS)
    build(program_config("prompt"), "bert").save_pretrained(tmp_path / "bert")
    for name in ("default", "new"):
        with pytest.raises(ArtefactError, match="base"):
            model.load_adapter(tmp_path / "bert", name)
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits_of(model, ROWS), before)


def test_a_base_that_comes_in_training_mode_goes_back_in_it() -> None:
    base, tokenizer = tiny("llama")
    base.train()
    base.lm_head.weight.requires_grad_(False)
    found = flags(base)
    model = get_reprogram_model(base, program_config("prompt"), tokenizer)
    assert not base.training
    model.unload()
    assert flags(base) == found


def test_a_failed_wrap_leaves_the_base_as_it_was() -> None:
    base, tokenizer = tiny("llama")
    base.train()
    found = flags(base)
    config = hr.ReprogramConfig(
        program="prompt", mapping={"type": "verbalizer", "words": {"a": ["good bad"], "b": [" so"]}}
    )
    config.mapping.words["b"] = [" unheard"]
    with pytest.raises(ConfigError, match="unknown to the tokenizer"):
        get_reprogram_model(base, config, tokenizer)
    assert flags(base) == found


def test_labels_may_be_named_without_words() -> None:
    model = build(mapping_config("linear"), "bert")
    assert model.label_names() == LABELS and model.config.num_labels == 2


def test_a_vector_is_stored_in_units_of_the_base(saved: tuple[Path, ReprogramModel]) -> None:
    """N28, N30: the unit is a plain number in the config, the same after loading."""
    folder, model = saved
    rms = model.peft_config["default"].embedding_rms
    assert rms == pytest.approx(model.backbone.rms(), rel=1e-12)
    base, tokenizer = tiny("llama")
    again = ReprogramModel.from_pretrained(base, folder, processing_class=tokenizer)
    assert again.peft_config["default"].embedding_rms == rms
    program = again.active_programs()[0]
    torch.testing.assert_close(program.vectors(), program.slots * rms)


def test_saving_takes_a_gathered_state(saved: tuple[Path, ReprogramModel], tmp_path: Path) -> None:
    """Trainer passes the whole model's state where it is sharded; ours is found in it."""
    _, model = saved
    gathered = {key: tensor + 1 for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    model.save_pretrained(tmp_path / "gathered", state_dict=gathered)
    base, tokenizer = tiny("llama")
    again = ReprogramModel.from_pretrained(base, tmp_path / "gathered", processing_class=tokenizer)
    assert torch.equal(again.active_programs()[0].slots, model.active_programs()[0].slots + 1)
