"""What tests of commands share: a base in a folder, and a program that knows where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import hf_reprogram as hr
from hf_reprogram.testing import program_config, tiny


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder with a base (`base/`) and a program on it (`program/`)."""

    def make(config: hr.ReprogramConfig | None = None, family: str = "llama", **training: object) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        base, tokenizer = tiny(family)
        base.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        base = type(base).from_pretrained(folder / "base")
        model = hr.get_reprogram_model(base, config or program_config("prompt"), tokenizer)
        model.peft_config["default"].training = training or None
        model.save_pretrained(folder / "program")
        return folder

    return make
