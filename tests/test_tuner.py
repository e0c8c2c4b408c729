"""The joint with PEFT: what we override still exists, keys carry no name, verbs do what PEFT's users expect."""

from __future__ import annotations

import inspect
import subprocess
import sys

import peft.mapping
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from hf_reprogram.config import PEFT_TYPE, ReprogramConfig
from hf_reprogram.errors import BaseModelError, ConfigError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, build, logits_of, program_config, tiny
from hf_reprogram.tuner import register


@pytest.fixture
def model() -> ReprogramModel:
    return build(program_config("prompt"), "llama")


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (BaseTuner, "_prepare_adapter_config", ["self", "peft_config", "model_config"]),
        (BaseTuner, "_check_target_module_exists", ["peft_config", "key"]),
        (BaseTuner, "_remove_adapter_name_from_key", ["key", "adapter_name"]),
        (
            BaseTuner,
            "_create_and_replace",
            [
                "self",
                "peft_config",
                "adapter_name",
                "target",
                "target_name",
                "parent",
                "current_key",
                "parameter_name",
            ],
        ),
        (BaseTunerLayer, "_move_adapter_to_device_of_base_layer", ["self", "adapter_name", "device"]),
        (BaseTunerLayer, "set_adapter", ["self", "adapter_names", "inference_mode"]),
        (PeftModel, "set_adapter", ["self", "adapter_name", "inference_mode"]),
        (PeftModel, "delete_adapter", ["self", "adapter_name"]),
    ],
)
def test_what_we_override_is_still_there(owner: type, name: str, parameters: list[str]) -> None:
    """A canary: an upgrade of PEFT that moves these fails here, with one readable line."""
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_registration_is_harmless_when_repeated_and_refuses_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING)
    register()
    assert before == peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    monkeypatch.setitem(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE, LoraConfig)
    with pytest.raises(UsageError, match="belongs to"):
        register()


def test_saved_keys_carry_no_adapter_name(model: ReprogramModel) -> None:
    """N1: PEFT strips the name only at the end of a key; a name left inside loads nothing under another one."""
    keys = list(get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False))
    assert keys == ["base_model.model.program.reprogram_program.0.slots"]


def test_peft_reads_our_config(model: ReprogramModel, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(config, ReprogramConfig)
    assert config.program == model.peft_config["default"].program


def test_the_base_tree_has_nothing_of_ours(model: ReprogramModel) -> None:
    assert not any("reprogram" in name for name, _ in model.backbone.base.named_modules())


def test_verbs(model: ReprogramModel) -> None:
    first = logits_of(model, ROWS)
    model.add_adapter("second", program_config("prompt"), seed=7)
    assert model.active_adapters == ["default"] and torch.equal(logits_of(model, ROWS), first)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trains) == 1 and ".default." in trains.pop()
    model.set_adapter("second")
    assert not torch.equal(logits_of(model, ROWS), first)
    assert [n for n, p in model.named_parameters() if p.requires_grad and ".second." not in n] == []
    model.delete_adapter("second")
    assert model.active_adapters == ["default"] and torch.equal(logits_of(model, ROWS), first)
    assert model.get_model_status().available_adapters == ["default"]


def test_counts(model: ReprogramModel, capsys: pytest.CaptureFixture) -> None:
    model.print_trainable_parameters()
    assert "trainable params: 160 ||" in capsys.readouterr().out


def test_disabling_and_enabling_leaves_training_on(model: ReprogramModel) -> None:
    with model.disable_adapter():
        assert model.reprogrammed.disabled
    assert not model.reprogrammed.disabled
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own (E§0 18)
def test_an_adapter_of_a_wrapped_base_is_refused() -> None:
    base, tokenizer = tiny("llama")
    lora = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(BaseModelError, match="a bare transformers model"):
        get_reprogram_model(lora, program_config("prompt"), tokenizer)


@pytest.mark.parametrize("name", ["a.b", "", "a b", "../x", "__base__", "keys", "pop"])
def test_names_that_no_module_tree_can_carry(name: str, model: ReprogramModel) -> None:
    with pytest.raises(ConfigError, match="adapter_name"):
        model.add_adapter(name, program_config("prompt"))


def test_names_that_peft_would_warn_of_are_fine(model: ReprogramModel, recwarn: pytest.WarningsRecorder) -> None:
    """N8: PEFT warns for any name that is a substring of its prefix."""
    model.add_adapter("program", program_config("prompt"))
    model.add_adapter("g", program_config("prompt"))
    assert [str(w.message) for w in recwarn if "prefix" in str(w.message)] == []


def test_labels_follow_the_active_adapter(model: ReprogramModel) -> None:
    other = ReprogramConfig(
        program="prompt", mapping={"type": "verbalizer", "words": {"x": [" bad"], "y": [" good"], "z": [" fine"]}}
    )
    model.add_adapter("other", other)
    own = dict(model.backbone.base.config.id2label)
    model.set_adapter("other")
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"} and model.config.num_labels == 3
    assert model.backbone.base.config.id2label == own


def test_unknown_attributes_are_reported_as_unknown(model: ReprogramModel) -> None:
    with pytest.raises(AttributeError):
        _ = model.hf_device_map
    assert model.device.type == "cpu" and model.dtype == torch.float32


def test_a_fresh_process_that_has_peft_registers_at_import_and_once() -> None:
    """And prints nothing (U, silence)."""
    code = (
        "import peft, hf_reprogram; import peft.mapping as m; print(m.PEFT_TYPE_TO_PREFIX_MAPPING['REPROGRAM']);"
        "import hf_reprogram.tuner as t; t.register()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "kernels-community" not in line]  # peft loads bitsandbytes
    assert done.stdout.strip() == "reprogram_" and told == []
