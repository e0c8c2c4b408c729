"""The command as a whole: help without torch, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_reprogram import cli
from hf_reprogram.errors import DataError


HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.commands())], ids=" ".join)
def test_help_loads_no_torch(arguments: list[str]) -> None:
    code = (
        f"import sys; from hf_reprogram.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
        f"sys.exit(', '.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: hf-reprogram")


def test_a_recipes_files_are_looked_for_without_torch(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "base: {model: x}\ndata: {train: ./rwos.jsonl}\npreset: warp\noptions: {labels: [a, b]}\noutput: o\n"
    )
    (tmp_path / "rows.jsonl").write_text("")
    code = (
        "import sys; from hf_reprogram.cli import main\n"
        f"status = main(['train', {str(recipe)!r}])\n"
        f"print(status, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2 []"
    assert "rwos.jsonl is no file" in done.stderr and "did you mean 'rows.jsonl'" in done.stderr


def test_every_file_is_a_command(capsys: pytest.CaptureFixture) -> None:
    files = {p.stem for p in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert set(cli.commands()) == files >= {"inspect", "methods"}
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    page = capsys.readouterr().out
    assert all(f"\n    {name} " in page for name in files)


def _ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(options: object) -> int:
        raise error

    monkeypatch.setattr("hf_reprogram.cli.methods.run", run)
    return cli.main(["methods"])


def test_an_error_of_ours_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _ends_with(DataError("rows[0]", "two\nlines", "one"), monkeypatch) == 2
    assert capsys.readouterr() == ("", "hf-reprogram: rows[0]: two lines. Expected one\n")


def test_an_interrupt_is_status_130_and_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert _ends_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        _ends_with(ZeroDivisionError(), monkeypatch)


def test_a_reader_who_leaves_is_no_error() -> None:
    """`hf-reprogram methods | head -1`: nothing on stderr, the status of a program that SIGPIPE ended."""
    code = (
        "import sys, os; os.close(0); from hf_reprogram import cli; from hf_reprogram.cli import methods\n"
        "methods.run = lambda options: print('x' * 1_000_000) or 0\nsys.exit(cli.main(['methods']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "hf_reprogram.cli", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "0.1.0"
