"""`hf-reprogram select`: from files to the table and the page, which a browser opens."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hf_reprogram.cli import main
from hf_reprogram.testing import ROWS, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a file of rows, with a column of another name."""
    folder = tmp_path_factory.mktemp("select")
    for name in ("bert-encoder", "llama"):
        base, tokenizer = tiny(name)
        base.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lines = [json.dumps({"sentence": row["text"], "label": row["label"]}) for row in ROWS * 3]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def command(folder: Path, *more: str, models: tuple[str, ...] = ("bert-encoder", "llama")) -> list[str]:
    paths = [str(folder / name) for name in models]
    rows = ["--data", str(folder / "rows.jsonl"), "--column", "text=sentence"]
    return ["select", "--models", *paths, *rows, "--gradients", "0", *more]


def test_the_table_and_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "markdown", "html")}
    assert main(command(folder, *(f"--{kind}={path}" for kind, path in files.items()))) == 0
    shown = capsys.readouterr().out
    assert "llama · vocabulary" in shown and "majority" in shown and "is first" in shown
    found = json.loads(files["json"].read_text())
    assert {e["name"] for e in found["entries"]} >= {"llama · vocabulary", "bert-encoder · mean state"}
    assert "| llama · vocabulary |" in files["markdown"].read_text()


def test_no_model_that_can_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, models=("nowhere",))) == 1
    assert "nowhere is no folder" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_told_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, "--html", str(folder / "no" / "page.html"), models=("nowhere",))) == 2
    assert "--html" in capsys.readouterr().err


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium: apt-get install --no-install-recommends chromium"
)
def test_a_browser_shows_the_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(command(folder, "--html", str(page))) == 0
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    # What the browser made of it, after its own parser and the rules of the style sheet.
    size = "<script>document.title=document.querySelector('svg').getBoundingClientRect().width</script></body>"
    (tmp_path / "measured.html").write_text(page.read_text().replace("</body>", size))
    shown = subprocess.run(
        ["chromium", *flags, "--dump-dom", (tmp_path / "measured.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert shown.count("<tr>") == page.read_text().count("<tr>") > 4
    assert float(shown.split("<title>")[1].split("</title>")[0]) > 300  # the figure is drawn, pixels wide


def test_the_help_shows_what_is_meant_where_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["select", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for flag, default in (
        ("--count N", 256),
        ("--gradients N", 32),
        ("--random-seeds N", 3),
        ("--split SPLIT", "train"),
    ):
        assert f"default {default}" in shown.split(f"{flag} ")[-1].split(" --")[0]
