"""The command: help without torch, inspect, methods, errors as one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_reprogram.cli import main
from hf_reprogram.registry import KINDS, names
from hf_reprogram.testing import build, program_config


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from hf_reprogram.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'peft', 'transformers', 'datasets')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "inspect" in done.stdout


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(program_config("prompt"), "llama").save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    for part in ("program   prompt", "mapping   verbalizer", "numbers   160", "program.0.slots", "(5, 32)", "weights"):
        assert part in page


def test_methods_names_every_method_with_its_options(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    page = capsys.readouterr().out
    assert all(f"{kind} {name}:" in page for kind in KINDS for name in names(kind))
    assert "init_text" in page


def test_an_error_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-reprogram: ") and "is not an artefact" in error and error.count("\n") == 1
