"""The numbered traps of PEFT, transformers, Accelerate and datasets (ecosystem-and-style.md §0), one test for each."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.utils.generic import can_return_loss, find_labels

from hf_reprogram.artefact import CARD_FILE, WEIGHTS_FILE
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ArtefactError, BaseModelError, ConfigError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, build, flags, logits_of, program_config, state_hash, tiny
from tests.traps.accounts import ROOT, check_accounts, numbers_of_tests


ELSEWHERE = {
    "01": "tests/test_tuner.py::test_registration_is_harmless_when_repeated_and_refuses_a_stranger",
    "05": "tests/test_artefact_damage.py::target_modules",
    "06": "hf_reprogram/testing/checks.py::def base_is_untouched",  # unload, for every method on every family
    "07": 'tests/test_bad_calls.py::"merging in place"',
    "13": "tests/test_bad_base.py::test_that_no_model_can_carry",
    "15": "tests/test_bad_input.py::peft.LoraConfig()",
    "19": "tests/training/test_trainer.py::test_trainer_counts_every_label",
    "20": "tests/training/test_trainer.py::test_accumulation_is_the_same_step",
    "23": "tests/training/test_trainer.py::test_a_checkpoint_holds_the_program_alone",
    "25": "tests/traps/test_language_models.py::test_t02_07_",
    "26": "tests/traps/test_language_models.py::test_t02_06_",
    "27": "tests/backbone/test_text.py::test_equals_a_loop_by_hand",
    "28": "hf_reprogram/testing/checks.py::def padding_changes_nothing",
    "29": "tests/traps/test_language_models.py::test_t02_09_",
    "30": 'pyproject.toml::"F"',  # ruff's F403 refuses `import *`
    "31": "tests/training/test_ranks.py::test_there_are_two_ranks",
    "32": "tests/training/test_ranks.py::class TestSharded",  # fully_shard itself: Trainer's FSDP on a CPU is DDP
    "37": "tests/test_performance.py::test_wrapping_a_model_loads_no_trainer_and_no_data_library",
    "38": "tests/hub_cases.py::test_large_files_without_xet",
    "39": "tests/hub_cases.py::E§0 39",
}
NOT_OURS = {
    "24": "sound: no audio backbone yet",
    "34": "sound: datasets' Audio column",
    "35": "sound: torchaudio",
}


def test_e0_every_trap_is_accounted_for() -> None:
    numbers = [f"{i:02}" for i in range(1, 40)]
    check_accounts(numbers, numbers_of_tests(globals(), "test_e0_"), ELSEWHERE, NOT_OURS)


@pytest.fixture
def model() -> ReprogramModel:
    """A prompt on a causal model."""
    return build(program_config("prompt"), "llama")


def test_e0_02_what_pefts_status_says_of_a_type_that_is_a_string(model: ReprogramModel, tmp_path: Path) -> None:
    """`.value` of a str: `hotswap_adapter` dies of it. Loading over the same name is our way to swap a program."""
    assert model.get_model_status().available_adapters == ["default"]
    model.save_pretrained(tmp_path)
    slots = model.active_programs()[0].slots
    saved = slots.detach().clone()
    with torch.no_grad():
        slots.zero_()
    model.load_adapter(tmp_path, "default")
    assert model.active_programs()[0].slots is slots and torch.equal(slots, saved)


def test_e0_03_every_snippet_that_loads_imports_us_first(model: ReprogramModel, tmp_path: Path) -> None:
    """PEFT says `KeyError: 'REPROGRAM'` of a folder of ours where nobody imported the package."""
    model.save_pretrained(tmp_path)
    texts = [(tmp_path / CARD_FILE).read_text(), (ROOT / "README.md").read_text()]
    blocks = [b for text in texts for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    loading = [b for b in blocks if re.search(r"Auto\w+\.from_pretrained", b)]
    assert len(loading) >= 2
    for block in loading:
        assert block.startswith("import hf_reprogram"), block


def test_e0_04_no_base_weight_is_ever_saved(model: ReprogramModel, tmp_path: Path) -> None:
    """PEFT saves the whole embedding of a base whose `target_modules` names it, and asks the Hub before."""
    with pytest.raises(ConfigError, match="target_modules"):
        ReprogramConfig(**program_config("prompt").to_dict() | {"target_modules": ["embed_tokens"]})
    model.save_pretrained(tmp_path, save_embedding_layers="auto")
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    assert list(tensors) == ["program.0.slots"]
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 4 * sum(t.numel() for t in tensors.values()) + 8192


@pytest.mark.parametrize("cast", ["before", "after"])
def test_e0_08_a_program_is_float32_on_a_bf16_base(cast: str) -> None:
    """100 steps of 1e-3 leave a bfloat16 1.0 unchanged: parameters and their gradients stay float32."""
    base, tokenizer = tiny("llama")
    base = base.to(torch.bfloat16) if cast == "before" else base
    model = get_reprogram_model(base, program_config("prompt"), tokenizer)
    model = model.to(torch.bfloat16) if cast == "after" else model
    found = model.train()(**model.collator()(ROWS))
    found.loss.backward()
    slots = model.active_programs()[0].slots
    assert model.backbone.dtype == torch.bfloat16
    assert slots.dtype == slots.grad.dtype == found.logits.dtype == torch.float32
    assert slots.grad.isfinite().all() and slots.grad.abs().sum() > 0


def _on_disk(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    base.save_pretrained(folder)
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    device_map = dict.fromkeys(parts, "cpu") | {"model.layers.1": "disk"}
    return LlamaForCausalLM.from_pretrained(folder, device_map=device_map, offload_folder=folder / "offload")


def _wholly(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    accelerate.disk_offload(base, folder, execution_device=torch.device("cpu"))
    return base


def _in_memory(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    accelerate.cpu_offload(base, execution_device=torch.device("cpu"))
    return base


@pytest.mark.parametrize("offload", [_on_disk, _wholly, _in_memory])
def test_e0_09_a_program_on_an_offloaded_base_has_numbers(
    offload: Callable[[LlamaForCausalLM, Path], LlamaForCausalLM], tmp_path: Path
) -> None:
    """PEFT moves it to the meta device, where its base's weights seem to lie; it trains as on the base itself."""
    base, tokenizer = tiny("llama")
    here = get_reprogram_model(tiny("llama")[0], program_config("prompt"), tokenizer)
    model = get_reprogram_model(offload(base, tmp_path), program_config("prompt"), tokenizer)
    assert any(p.is_meta for p in model.backbone.base.parameters())
    assert model.active_programs()[0].slots.device.type == "cpu"
    gradients = []
    for each in (here, model):
        each.train()(**each.collator()(ROWS)).loss.backward()
        gradients.append(each.active_programs()[0].slots.grad)
    torch.testing.assert_close(*gradients)


def test_e0_10_a_program_is_loaded_on_an_offloaded_base(model: ReprogramModel, tmp_path: Path) -> None:
    """PEFT re-dispatches the base under its own names of the modules and dies; the base's fingerprint is the same."""
    model.save_pretrained(tmp_path / "program")
    base, tokenizer = tiny("llama")
    base = _on_disk(base, tmp_path)
    again = ReprogramModel.from_pretrained(base, tmp_path / "program", processing_class=tokenizer)
    with pytest.raises(AttributeError):
        _ = again.reprogrammed.hf_device_map
    torch.testing.assert_close(logits_of(again, ROWS), logits_of(model, ROWS))


def test_e0_10_a_base_without_numbers_is_refused() -> None:
    """On the meta device and no hook that fetches its weights."""
    base, tokenizer = tiny("llama")
    with pytest.raises(BaseModelError, match="LlamaForCausalLM on the meta device.*from_pretrained"):
        get_reprogram_model(base.to("meta"), program_config("prompt"), tokenizer)


def test_e0_11_rows_of_two_programs_under_beam_search(model: ReprogramModel) -> None:
    """PEFT's layers are called again for batch times beams rows; ours run once, before the base's own generate."""
    model.add_adapter("other", program_config("prompt"), seed=5)
    rows = [{"text": row["text"], "adapter": name} for row, name in zip(ROWS, ["default", "other"] * 3, strict=True)]
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
    mixed = model.generate(rows, **options)
    alone = torch.cat([model.generate([row], **options) for row in rows])
    assert mixed.tolist() == alone.tolist()


def test_e0_12_names_of_programs_travel_with_the_rows(model: ReprogramModel) -> None:
    """PEFT's `adapter_names` refuse training and know a reserved `__base__`."""
    model.add_adapter("other", program_config("prompt"), seed=5)
    columns = model.collator()([{**row, "adapter": "other"} for row in ROWS])
    columns.pop("labels")
    model.set_adapter("other")
    expected = logits_of(model, ROWS)
    model.set_adapter("default")
    assert torch.equal(model.train()(**columns).logits, expected)
    with pytest.raises(UsageError, match="unknown adapter '__base__'"):
        model(**{**columns, "adapter_names": ["__base__"] * len(ROWS)})


def test_e0_14_a_lora_on_the_base_stays_frozen(tmp_path: Path) -> None:
    """PEFT's freeze leaves the LoRA of a base trainable: it would learn, and not be saved. Whatever is called, it is
    on and frozen; the artefact says that it is part of the base; unload gives it back as it was."""
    base, tokenizer = tiny("llama")
    plain = logits_of(build(program_config("prompt"), "llama"), ROWS)
    base.add_adapter(peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    found, numbers = flags(base), state_hash(base)
    model = get_reprogram_model(base, program_config("prompt"), tokenizer)
    before = logits_of(model, ROWS)
    assert not torch.allclose(before, plain), "the LoRA does nothing"
    model.save_pretrained(tmp_path)
    with model.disable_adapter():
        assert not any(m.disable_adapters for m in base.modules() if isinstance(m, peft.tuners.lora.LoraLayer))
    model.load_adapter(tmp_path, "second", is_trainable=True)
    model.set_adapter("second")
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trains == ["base_model.model.program.reprogram_program.second.0.slots"]
    model.train()(**model.collator()(ROWS)).loss.backward()
    assert all(p.grad is None for p in base.parameters()) and state_hash(base) == numbers
    assert torch.equal(logits_of(model.eval(), ROWS), before)
    assert list(load_file(tmp_path / WEIGHTS_FILE)) == ["program.0.slots"]
    with pytest.raises(ArtefactError, match="other weights"):
        ReprogramModel.from_pretrained(tiny("llama")[0], tmp_path, processing_class=tokenizer)
    assert flags(model.unload()) == found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own (E§0 18)
@pytest.mark.parametrize("way", ["load_adapter", "get_peft_model"])
def test_e0_16_pefts_own_ways_name_ours(way: str, model: ReprogramModel, tmp_path: Path) -> None:
    """They ended in `No target_modules passed`; PeftModel.from_pretrained is in tests/test_model.py."""
    model.save_pretrained(tmp_path)
    base, _ = tiny("llama")
    ways: dict[str, Callable[[], Any]] = {
        "load_adapter": lambda: base.load_adapter(str(tmp_path)),
        "get_peft_model": lambda: peft.get_peft_model(base, program_config("prompt")),
    }
    with pytest.raises(BaseModelError, match=r"hr\.AutoReprogramModel\.from_pretrained loads one"):
        ways[way]()


def test_e0_17_the_last_program_stays_and_loading_wakes_and_sleeps_nothing(
    model: ReprogramModel, tmp_path: Path
) -> None:
    """A model without programs dies in forward; PEFT's load_adapter puts the whole model to sleep."""
    with pytest.raises(UsageError, match=r"last program.*unload\(\)"):
        model.delete_adapter("default")
    model.save_pretrained(tmp_path)
    model.train()
    model.load_adapter(tmp_path, "default")
    model.load_adapter(tmp_path, "beside")
    assert model.training and model.active_programs()[0].slots.requires_grad
    model.set_adapter("beside")
    model.delete_adapter("beside")
    assert model.active_adapters == ["default"] and logits_of(model, ROWS).isfinite().all()


def test_e0_18_wrapping_asks_for_nothing_that_is_deprecated() -> None:
    """PEFT reads `model.is_gradient_checkpointing`, which transformers warns of; ours forwards to the new name."""
    base, tokenizer = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = get_reprogram_model(base, program_config("prompt"), tokenizer)
        assert model.reprogrammed.is_gradient_checkpointing is False
        model.activation_checkpointing_enable()
        assert model.reprogrammed.is_gradient_checkpointing is True


def test_e0_21_labels_is_the_one_name_with_label_in_it(model: ReprogramModel) -> None:
    """Trainer takes every parameter whose name contains "label" for a target."""
    assert find_labels(type(model.get_base_model())) == ["labels"]
    assert not can_return_loss(type(model.get_base_model()))


def test_e0_22_every_column_of_a_batch_is_a_named_parameter(model: ReprogramModel, tmp_path: Path) -> None:
    """Trainer drops what arrives through **kwargs."""
    parameters = inspect.signature(type(model.get_base_model()).forward).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    model.add_adapter("other", program_config("prompt"))
    columns = model.collator()([{**row, "adapter": "other"} for row in ROWS])
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]))
    trainer._set_signature_columns_if_needed()
    assert set(columns) <= set(trainer._signature_columns)
    assert {"input_ids", "adapter_names", "labels", "slot_index", "answer_index"} <= set(columns)


def test_e0_33_parameters_are_read_in_their_own_modules_forward_only(model: ReprogramModel) -> None:
    """A shard outside its own forward is a DTensor among tensors (FSDP2), or of size 0 (ZeRO-3)."""
    inside: list[str] = []

    class Watched(torch.nn.Parameter):
        """Notes every operation that it takes part in."""

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.__name__ not in ("__get__", "detach"):
                assert inside, f"{function.__name__} of a parameter outside its module's forward"
            return super().__torch_function__(function, types, args, kwargs or {})

    program = model.active_programs()[0]
    program.slots = Watched(program.slots.detach())
    program.register_forward_pre_hook(lambda *_: inside.append("program"))
    program.register_forward_hook(lambda *_: inside.clear())
    columns = model.collator()(ROWS)
    assert model(**columns).loss.isfinite()
    with pytest.raises(AssertionError, match="outside"):
        program.vectors()


def test_e0_36_metrics_need_no_network_and_no_evaluate() -> None:
    """`evaluate.load` asks the Hub for a script, and importing it took 22 s: the metrics are our own. Those for people
    who ask for evaluate's modules have a folder of their own, and load by its path."""
    for path in sorted(
        {*(ROOT / "hf_reprogram").rglob("*.py")} - {*(ROOT / "hf_reprogram/tools/metrics").rglob("*.py")}
    ):
        assert not re.search(r"^\s*(import|from) evaluate\b", path.read_text(), re.MULTILINE), path
