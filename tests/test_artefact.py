"""The artefact: what is saved comes back to the bit, everywhere; what is not for this base is refused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_reprogram import artefact
from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ArtefactError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import ROWS, logits_of, tiny
from tests.artefact_kit import KINDS, forge, host, nothing_changes, saved, saved_files, trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved prompt with a verbalizer."""
    return saved("prompt", tmp_path / "program")


class TestRoundTrip:
    @pytest.mark.parametrize("kind", KINDS)
    def test_under_another_name_on_a_fresh_base(self, kind: str, tmp_path: Path) -> None:
        """N1: a name that stayed inside the keys would load nothing, and say nothing."""
        model = trained(kind)
        model.save_pretrained(tmp_path)
        again = AutoReprogramModel.from_pretrained(tmp_path, *tiny("llama"), adapter_name="other-name")
        assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))
        ours, theirs = model.base_model.state("default"), again.base_model.state("other-name")
        assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}

    def test_in_a_new_process(self, tmp_path: Path) -> None:
        for kind in KINDS:
            model = trained(kind)
            model.save_pretrained(tmp_path / kind)
            torch.save(logits_of(model, ROWS), tmp_path / kind / "logits.pt")
        code = Path(__file__).with_name("load_elsewhere.py")
        done = subprocess.run([sys.executable, code, tmp_path], capture_output=True, text=True, cwd=code.parents[1])
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == dict.fromkeys(sorted(KINDS), True)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_second_save_is_the_same_to_the_byte(self, kind: str, tmp_path: Path) -> None:
        saved(kind, tmp_path / "a")
        model = AutoReprogramModel.from_pretrained(tmp_path / "a", *tiny("llama"))
        again = tmp_path / "program"  # the folder's name, which the card tells
        model.save_pretrained(again)
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            assert (again / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name

    @pytest.mark.parametrize("kind", KINDS)
    def test_size(self, kind: str, tmp_path: Path) -> None:
        files, (_, tensors) = saved_files(kind), artefact.load(saved(kind, tmp_path))
        numbers = sum(t.numel() for t in tensors.values())
        assert len(files[WEIGHTS_FILE]) + len(files[CONFIG_FILE]) <= 4 * numbers + 8192
        assert sorted(files) == sorted((WEIGHTS_FILE, CONFIG_FILE, CARD_FILE))

    def test_beside_another_program(self, folder: Path) -> None:
        model = host("gradient")
        before = logits_of(model, ROWS)
        model.load_adapter(folder, "loaded")
        assert model.active_adapters == ["default"] and torch.equal(logits_of(model, ROWS), before)
        model.set_adapter("loaded")
        assert torch.equal(logits_of(model, ROWS), logits_of(trained("prompt"), ROWS))

    def test_several_programs_lie_in_folders_of_their_names(self, tmp_path: Path) -> None:
        model = trained("prompt")
        model.add_adapter("second", ReprogramConfig(**KINDS["gradient"]), seed=4)
        model.save_pretrained(tmp_path)
        assert (tmp_path / WEIGHTS_FILE).is_file() and (tmp_path / "second" / WEIGHTS_FILE).is_file()
        again = AutoReprogramModel.from_pretrained(tmp_path, *tiny("llama"), subfolder="second")
        model.set_adapter("second")
        assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))

    def test_only_plain_json_and_safetensors(self, folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        assert config == artefact.load(folder)[0]
        assert (folder / WEIGHTS_FILE).read_bytes()[8:9] == b"{"


Change = Callable[[dict[str, Any]], Any]


class TestTensors:
    """Checksums are right in every one of these: what the tensors are is what is refused."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_not_finite(self, folder: Path, value: float) -> None:
        forge(folder, tensors=lambda t: t["program.0.slots"][1].fill_(value))
        self._refused(folder, "program.0.slots", "NaN or infinity")

    def test_missing(self, folder: Path) -> None:
        forge(folder, tensors=lambda t: t.pop("program.0.slots"))
        self._refused(folder, "'program.0.slots' is missing")

    def test_misnamed(self, folder: Path) -> None:
        forge(folder, tensors=lambda t: t.update({"program.0.slot": t.pop("program.0.slots")}))
        self._refused(folder, "'program.0.slots' is missing", "did you mean 'program.0.slot'?")

    @pytest.mark.parametrize("name", ["base.lm_head.weight", "mapping.offset", "../x", "program.1.slots"])
    def test_extra(self, folder: Path, name: str) -> None:
        forge(folder, tensors=lambda t: t.update({name: torch.zeros(2)}))
        self._refused(folder, repr(name), "not part of this program")

    @pytest.mark.parametrize("shape", [(32, 5), (4, 32), (6, 32), (5, 33), (160,), (1, 5, 32), (0, 32)])
    def test_misshaped(self, folder: Path, shape: tuple[int, ...]) -> None:
        forge(folder, tensors=lambda t: t.update({"program.0.slots": torch.zeros(shape)}))
        self._refused(folder, "program.0.slots", str(shape), "Expected (5, 32) torch.float32")

    @pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "int32", "bool", "complex64", "float8_e4m3fn"])
    def test_of_another_type(self, folder: Path, name: str) -> None:
        dtype = getattr(torch, name)
        forge(folder, tensors=lambda t: t.update({"program.0.slots": torch.ones(5, 32).to(dtype)}))
        self._refused(folder, "program.0.slots", str(dtype), "torch.float32")

    def test_that_no_config_calls_for(self, tmp_path: Path) -> None:
        folder = saved("nothing", tmp_path)
        forge(folder, tensors=lambda t: t.update({"program.0.slots": torch.zeros(5, 32)}))
        self._refused(folder, "not part of this program")

    def test_weights_of_another_program_under_this_config(self, folder: Path) -> None:
        def turn_into_rows(config: dict[str, Any]) -> None:
            config["mapping"]["rows"] = "trained"

        forge(folder, config=turn_into_rows)
        self._refused(folder, "'mapping.vectors' is missing")

    @staticmethod
    def _refused(folder: Path, *says: str) -> None:
        model = host()
        with nothing_changes(model):
            for name in ("loaded", "default"):
                with pytest.raises(ArtefactError) as error:
                    model.load_adapter(folder, name)
                assert all(text in str(error.value) for text in (str(folder), *says))


class TestInterruptedSave:
    """The weights file alone decides; a config that lags behind, or is not there yet, is said once and not used."""

    def test_new_weights_old_config(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = saved("ridge", tmp_path)
        (folder / CONFIG_FILE).write_bytes(saved_files("prompt")[CONFIG_FILE])
        self._loads_as("ridge", folder, caplog, "belongs to other weights (an interrupted save)")

    def test_no_config(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / CONFIG_FILE).unlink()
        self._loads_as("prompt", folder, caplog, "is missing (an interrupted save)")

    def test_no_card_is_no_matter(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / CARD_FILE).unlink()
        self._loads_as("prompt", folder, caplog)

    @staticmethod
    def _loads_as(kind: str, folder: Path, caplog: pytest.LogCaptureFixture, *says: str) -> None:
        model = host()
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            model.load_adapter(folder, "loaded")
        assert len(caplog.messages) == len(says)
        assert all(text in line for text, line in zip(says, caplog.messages, strict=True))
        model.set_adapter("loaded")
        assert torch.equal(logits_of(model, ROWS), logits_of(trained(kind), ROWS))

    def test_the_next_save_mends_it(self, folder: Path) -> None:
        (folder / CONFIG_FILE).unlink()
        AutoReprogramModel.from_pretrained(folder, *tiny("llama")).save_pretrained(folder)
        assert (folder / CONFIG_FILE).read_bytes() == saved_files("prompt")[CONFIG_FILE]


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["mapping"]["words"].update(positive=[" great"]),
        lambda c: c.update(labels=["positive", "negative"]),
        lambda c: c.update(training={"accuracy": 1.0}),
        lambda c: c["checksum"].update(config="0" * 64),
        lambda c: c["checksum"].update(weights="0" * 64),
        lambda c: c.pop("checksum"),
        lambda c: c.update(checksum=None),
        lambda c: c.update(checksum=[]),
    ],
)
def test_a_config_changed_by_hand_is_refused(folder: Path, edit: Change) -> None:
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    edit(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    model = host()
    with nothing_changes(model), pytest.raises(ArtefactError, match="was changed after it was saved.*Fix: delete it"):
        model.load_adapter(folder, "loaded")


class TestForAnotherBase:
    """A program means something on one base and one tokenizer only."""

    @pytest.mark.parametrize(
        ("says", "change"),
        [
            ("a base of another class: LlamaForCausalLM is not BertForMaskedLM", lambda: tiny("bert")),
            ("a base with other weights", lambda: tiny("llama", seed=1)),
            ("a base of another width: 32 is not 16", lambda: _narrow()),
            ("a base with another config", lambda: _turned()),
            ("another tokenizer", lambda: _other_tokenizer()),
        ],
    )
    def test_is_refused(self, folder: Path, says: str, change: Callable[[], Any]) -> None:
        base, tokenizer = change()
        model = get_reprogram_model(base, ReprogramConfig(**KINDS["prompt"]), processing_class=tokenizer)
        with nothing_changes(model), pytest.raises(ArtefactError) as error:
            model.load_adapter(folder, "loaded")
        assert f"made for {says}" in str(error.value) and "AutoReprogramModel" in error.value.fix
        with pytest.raises(ArtefactError):
            AutoReprogramModel.from_pretrained(folder, *change())

    @pytest.mark.parametrize(
        "left", [{}, {"class": "LlamaForCausalLM"}, None, {"class": None, "width": None}, {"x": 1}]
    )
    def test_a_fingerprint_with_gaps_proves_nothing(self, folder: Path, left: Any) -> None:
        forge(folder, config=lambda c: c.update(fingerprint=left))
        with pytest.raises(ArtefactError, match="fingerprint"):
            host().load_adapter(folder, "loaded")

    def test_made_without_a_tokenizer_it_suits_any(self, tmp_path: Path) -> None:
        base, tokenizer = tiny("llama")
        get_reprogram_model(base, ReprogramConfig()).save_pretrained(tmp_path)
        model = AutoReprogramModel.from_pretrained(tmp_path, base, tokenizer)
        assert model.processing_class is tokenizer

    def test_padding_and_truncation_are_no_part_of_a_tokenizers_identity(self, folder: Path) -> None:
        base, tokenizer = tiny("llama")
        tokenizer(["good", "good good"], padding=True, truncation=True, max_length=5)
        tokenizer.padding_side = "left"
        AutoReprogramModel.from_pretrained(folder, base, tokenizer)

    def test_a_base_changed_in_place_is_another(self, folder: Path) -> None:
        """Digests are remembered, and must not be where they no longer hold."""
        base, tokenizer = tiny("llama")
        AutoReprogramModel.from_pretrained(folder, base, tokenizer).unload()
        base.config.rope_parameters["rope_theta"] *= 2
        with pytest.raises(ArtefactError, match="a base with another config"):
            AutoReprogramModel.from_pretrained(folder, base, tokenizer)
        base.config.rope_parameters["rope_theta"] /= 2
        AutoReprogramModel.from_pretrained(folder, base, tokenizer).unload()
        with torch.no_grad():
            base.model.norm.weight[3] += 1e-3
        with pytest.raises(ArtefactError, match="a base with other weights"):
            AutoReprogramModel.from_pretrained(folder, base, tokenizer)

    def test_a_base_rounded_by_a_cast_and_back_is_another(self, folder: Path) -> None:
        base, tokenizer = tiny("llama")
        AutoReprogramModel.from_pretrained(folder, base, tokenizer).unload()
        base.to(torch.bfloat16).to(torch.float32)
        with pytest.raises(ArtefactError, match="a base with other weights"):
            AutoReprogramModel.from_pretrained(folder, base, tokenizer)

    def test_a_tokenizer_changed_in_place_is_another(self, folder: Path) -> None:
        base, tokenizer = tiny("llama")
        AutoReprogramModel.from_pretrained(folder, base, tokenizer).unload()
        tokenizer.add_special_tokens({"bos_token": "<mask>"})
        with pytest.raises(ArtefactError, match="another tokenizer"):
            AutoReprogramModel.from_pretrained(folder, base, tokenizer)


def _narrow() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    base, tokenizer = tiny("llama")
    return LlamaForCausalLM(LlamaConfig(**{**base.config.to_dict(), "hidden_size": 16, "head_dim": 4})), tokenizer


def _turned() -> tuple[Any, Any]:
    base, tokenizer = tiny("llama")
    base.config.rms_norm_eps *= 2
    return base, tokenizer


def _other_tokenizer() -> tuple[Any, Any]:
    base, tokenizer = tiny("llama")
    tokenizer.add_special_tokens({"mask_token": "<s>"})
    return base, tokenizer


def test_a_folder_of_programs_without_a_default_names_them(tmp_path: Path) -> None:
    trained("prompt").save_pretrained(tmp_path)
    (tmp_path / "films").mkdir()
    for file in tmp_path.iterdir():
        if file.is_file():
            file.rename(tmp_path / "films" / file.name)
    with pytest.raises(ArtefactError, match="Fix: subfolder='films': programs lie in films"):
        AutoReprogramModel.from_pretrained(tmp_path, *tiny("llama"))
    AutoReprogramModel.from_pretrained(tmp_path, *tiny("llama"), subfolder="films")
