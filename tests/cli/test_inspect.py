"""`hf-reprogram inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_reprogram.cli import main
from hf_reprogram.testing import build, program_config


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(program_config("prompt"), "llama").save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    for part in ("program   prompt", "mapping   verbalizer", "numbers   160", "program.0.slots", "(5, 32)", "weights"):
        assert part in page


def test_a_folder_without_a_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-reprogram: ") and "is not an artefact" in error and error.count("\n") == 1
