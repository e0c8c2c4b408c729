"""AutoReprogramModel: from one name to a model that predicts; every wrong name says what was looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError, ConfigError, UsageError
from hf_reprogram.hub import fetch
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import ROWS, flags, logits_of, program_config, state_hash, tiny
from tests.artefact_kit import forge, saved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved prompt with a verbalizer, on a base that had no name."""
    return saved("prompt", tmp_path / "program")


def _on_disk(family: str, root: Path) -> tuple[Path, Any]:
    """A program on a base that lies in a folder, and the model it was saved from."""
    from transformers import AutoTokenizer

    base, tokenizer = tiny(family)
    base.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    base = type(base).from_pretrained(root / "base")
    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    model = get_reprogram_model(base, program_config("prompt"), tokenizer)
    model.save_pretrained(root / "program")
    return root / "program", model


class TestOneName:
    @pytest.mark.parametrize("family", ["llama", "bert", "t5"])
    def test_loads_base_tokenizer_and_program(self, family: str, tmp_path: Path) -> None:
        folder, model = _on_disk(family, tmp_path)
        for name in (folder, str(folder), f"{folder}/"):
            again = hr.AutoReprogramModel.from_pretrained(name)
            assert type(again.backbone.base) is type(model.backbone.base)
            assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))
            assert again.predict("good") == model.predict("good")

    def test_sleeps_unless_it_is_to_train_on(self, folder: Path) -> None:
        for trains in (False, True):
            model = hr.AutoReprogramModel.from_pretrained(folder, *tiny("llama"), is_trainable=trains)
            assert any(p.requires_grad for p in model.parameters()) == trains and not model.training
            assert not any(p.requires_grad for p in model.backbone.base.parameters())

    def test_a_folder_of_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved("prompt", tmp_path / "me" / "reviews")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("me/reviews", "./me/reviews", "me/../me/reviews", "~/me/reviews"):
            hr.AutoReprogramModel.from_pretrained(name, *tiny("llama"))

    def test_a_link_to_a_folder(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        hr.AutoReprogramModel.from_pretrained(tmp_path / "link", *tiny("llama"))

    def test_the_hubs_cache_links_each_file(self, folder: Path, tmp_path: Path) -> None:
        snapshot = tmp_path / "snapshot"
        snapshot.mkdir()
        for path in folder.iterdir():
            (snapshot / path.name).symlink_to(path)
        hr.AutoReprogramModel.from_pretrained(snapshot, *tiny("llama"))


class TestWrongNames:
    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda root: root / "nowhere", "is not a folder"),
            (lambda root: root / "file", "is not a folder"),
            (lambda root: root / "empty", r"no adapter_model\.safetensors \(it holds nothing\)"),
            (lambda root: root / "other", r"it holds \['notes\.txt', 'pytorch_model\.bin'\]"),
            (lambda root: root / "circle", "could not be read|is not a folder"),
            (lambda root: root / ("x" * 300), "could not be read"),
            (lambda root: "x" * 5000, "could not be read|could not be fetched"),
            (lambda root: "./nowhere", "is not a folder"),
            (lambda root: "~nobody/x/y", "is not a folder"),
            (lambda root: "a\0b", "could not be fetched|could not be read"),
            (lambda root: "/a\0b", "could not be read|is not a folder"),
            (lambda root: "nobody/nothing", "no folder here, and could not be fetched from the Hub"),
            (lambda root: "nothing", "nothing: is not a folder.*or a repo id owner/name"),
            (lambda root: "a b", "is not a folder"),
            (lambda root: "", "could not be fetched|is not"),
            (lambda root: None, "a folder made by save_pretrained, or a repo id"),
            (lambda root: 7, "a folder made by save_pretrained, or a repo id"),
            (lambda root: b"x", "a folder made by save_pretrained, or a repo id"),
        ],
    )  # fmt: skip
    def test_say_what_was_looked_for(self, tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "empty").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").touch()
        (tmp_path / "other" / "pytorch_model.bin").touch()
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        base, tokenizer = tiny("llama")
        found, numbers = flags(base), state_hash(base)
        with pytest.raises(ArtefactError, match=says):
            hr.AutoReprogramModel.from_pretrained(make(tmp_path), base, tokenizer)
        assert flags(base) == found and state_hash(base) == numbers

    @pytest.mark.parametrize(
        "subfolder",
        ["..", "../x", "a/../../x", "/etc", "link", "link/deeper", "inside/../../x", "\0", "../program2", "~", 7],
    )
    def test_a_subfolder_leads_nowhere_else(self, folder: Path, subfolder: Any) -> None:
        """Not even to a sound artefact that lies elsewhere."""
        for place in ("x", "program2", "elsewhere", "elsewhere/deeper"):
            saved("prompt", folder.parent / place)
        (folder / "inside").mkdir()
        (folder / "link").symlink_to(folder.parent / "elsewhere")
        with pytest.raises(ArtefactError):
            fetch(folder, subfolder)
        with pytest.raises(ArtefactError):
            hr.AutoReprogramModel.from_pretrained(folder, *tiny("llama"), subfolder=subfolder)

    @pytest.mark.parametrize("subfolder", [None, "", ".", "inside/.."])
    def test_a_subfolder_that_is_the_folder(self, folder: Path, subfolder: str | None) -> None:
        (folder / "inside").mkdir()
        assert os.path.samefile(fetch(folder, subfolder), folder)

    @pytest.mark.parametrize("name", ["a.b", "", "a b", "../x", "keys", None, 7])
    def test_adapter_names(self, folder: Path, name: Any) -> None:
        base, tokenizer = tiny("llama")
        found = flags(base)
        with pytest.raises(ConfigError, match="adapter_name"):
            hr.AutoReprogramModel.from_pretrained(folder, base, tokenizer, adapter_name=name)
        assert flags(base) == found


class TestBases:
    def test_one_that_had_no_name_must_be_given(self, folder: Path) -> None:
        with pytest.raises(ArtefactError, match="its base had no name when it was saved.*Fix: pass base_model="):
            hr.AutoReprogramModel.from_pretrained(folder)

    def test_so_must_its_tokenizer(self, folder: Path) -> None:
        with pytest.raises(ArtefactError, match="tokenizer.*could not be loaded.*Fix: pass processing_class="):
            hr.AutoReprogramModel.from_pretrained(folder, tiny("llama")[0])

    @pytest.mark.parametrize("name", ["nobody/nothing", "./gone", "../..", "x" * 300, 7])
    def test_that_are_gone(self, folder: Path, name: Any) -> None:
        forge(folder, config=lambda c: c.update(base_model_name_or_path=name))
        with pytest.raises(ArtefactError, match="base"):
            hr.AutoReprogramModel.from_pretrained(folder)

    def test_that_moved_are_given(self, tmp_path: Path) -> None:
        folder, model = _on_disk("llama", tmp_path)
        (tmp_path / "base").rename(tmp_path / "moved")
        with pytest.raises(ArtefactError, match="could not be loaded.*Fix: pass base_model="):
            hr.AutoReprogramModel.from_pretrained(folder)
        again = hr.AutoReprogramModel.from_pretrained(folder, model.unload(), model.processing_class)
        assert again.predict("good") == model.predict("good")

    def test_that_changed_on_disk_are_refused(self, tmp_path: Path) -> None:
        folder, _ = _on_disk("llama", tmp_path)
        tiny("llama", seed=1)[0].save_pretrained(tmp_path / "base")
        with pytest.raises(ArtefactError, match="a base with other weights"):
            hr.AutoReprogramModel.from_pretrained(folder)

    def test_flags_stay_as_found_when_loading_fails(self, folder: Path) -> None:
        base, tokenizer = tiny("llama", seed=1)
        base.train()
        base.lm_head.weight.requires_grad_(False)
        found, numbers = flags(base), state_hash(base)
        with pytest.raises(ArtefactError, match="a base with other weights"):
            hr.AutoReprogramModel.from_pretrained(folder, base, tokenizer)
        assert flags(base) == found and state_hash(base) == numbers

    def test_what_is_meant_for_loading_a_base_is_not_dropped(self, folder: Path) -> None:
        for name in ("dtype", "subfoldr"):
            with pytest.raises(UsageError, match=f"{name}: is for loading the base"):
                hr.AutoReprogramModel.from_pretrained(folder, *tiny("llama"), **{name: "x"})

    @pytest.mark.parametrize("trained", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
    def test_come_in_the_dtype_of_training_whatever_the_file_holds(
        self, trained: torch.dtype, stored: torch.dtype, tmp_path: Path
    ) -> None:
        """transformers loads what the file holds: a float32 program of a bfloat16 file would be refused for ever."""
        base, tokenizer = tiny("llama")
        base.to(stored).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        base = type(base).from_pretrained(tmp_path / "base", dtype=trained)
        model = get_reprogram_model(base, program_config("prompt"), tokenizer)
        model.save_pretrained(tmp_path / "program")
        again = hr.AutoReprogramModel.from_pretrained(tmp_path / "program", processing_class=tokenizer)
        assert again.backbone.dtype == trained
        assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))

    @pytest.mark.parametrize("family", ["llama", "bert", "t5"])
    def test_that_were_loaded_with_their_first_layers_come_so(self, family: str, tmp_path: Path) -> None:
        whole, tokenizer = tiny(family)
        whole.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        base = type(whole).from_pretrained(tmp_path / "base", num_hidden_layers=1)
        assert 1 == base.config.num_hidden_layers < whole.config.num_hidden_layers
        model = get_reprogram_model(base, program_config("prompt"), tokenizer)
        model.save_pretrained(tmp_path / "program")
        again = hr.AutoReprogramModel.from_pretrained(tmp_path / "program")
        assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))
        with pytest.raises(ArtefactError, match="a base with another config"):
            hr.AutoReprogramModel.from_pretrained(tmp_path / "program", whole, tokenizer)

    @pytest.mark.parametrize("layers", ["9", "0", "-1", "1e9", "one", 7, None])
    def test_a_number_of_layers_that_is_none_is_no_matter(self, layers: Any, tmp_path: Path) -> None:
        folder, model = _on_disk("llama", tmp_path)
        forge(folder, config=lambda c: c["fingerprint"].update(layers=layers))
        assert hr.AutoReprogramModel.from_pretrained(folder).predict("good") == model.predict("good")

    def test_in_another_dtype_are_other_bases(self, tmp_path: Path) -> None:
        folder, _ = _on_disk("llama", tmp_path)
        with pytest.raises(ArtefactError, match="a base in another dtype: float32 is not float16"):
            hr.AutoReprogramModel.from_pretrained(folder, dtype=torch.float16)

    @pytest.mark.parametrize("dtype", ["load", "os.system", "Tensor", 7])
    def test_a_dtype_is_one_of_four_names(self, tmp_path: Path, dtype: Any) -> None:
        folder, _ = _on_disk("llama", tmp_path)
        forge(folder, config=lambda c: c["fingerprint"].update(dtype=dtype))
        with pytest.raises(ArtefactError, match="a base in another dtype"):
            hr.AutoReprogramModel.from_pretrained(folder)
