"""`hf-reprogram predict`: rows in, rows with labels out, as they come; where it stops, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hf_reprogram as hr
from hf_reprogram.cli import main, predict
from hf_reprogram.testing import ROWS


Capture = pytest.CaptureFixture
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(scope="module")
def program(saved: Callable[..., Path]) -> Path:
    return saved() / "program"


@pytest.fixture(scope="module")
def expected(program: Path) -> list[dict[str, Any]]:
    return hr.AutoReprogramModel.from_pretrained(program).predict(TEXTS)


def _answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_keep_their_columns_and_their_order(
    program: Path, expected: list, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{"id": i, "text": text, "more": ["é", None]} for i, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", str(program), str(tmp_path / "rows.jsonl"), "--batch-size", "2"]) == 0
    out, err = capsys.readouterr()
    answers = _answers(out)
    assert [list(a) for a in answers] == [["id", "text", "more", "label", "score"]] * len(rows)
    assert [{k: a[k] for k in row} for a, row in zip(answers, rows, strict=True)] == rows
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["label"] == wanted["label"] and answer["score"] == pytest.approx(wanted["score"], abs=1e-6)
    assert "é" in out and err == ""


def test_own_columns_called_label_or_score_are_kept_beside_ours(
    program: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "rows.csv").write_text("text,label,score\nmy phone broke,unheard of,3\n")
    assert main(["predict", str(program), str(tmp_path / "rows.csv"), "--top-k", "2"]) == 0
    (answer,) = _answers(capsys.readouterr().out)
    assert (answer["input_label"], answer["input_score"]) == ("unheard of", "3")
    assert [a["label"] for a in answer["top"]] in (["negative", "positive"], ["positive", "negative"])
    assert {"label": answer["label"], "score": answer["score"]} == answer["top"][0]
    assert sum(a["score"] for a in answer["top"]) == pytest.approx(1)


def test_text_names_the_column(program: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "rows.tsv").write_text("review\tadapter\nmy phone broke\t5 volts\n")
    assert main(["predict", str(program), str(tmp_path / "rows.tsv")]) == 2
    assert "line 2: no column 'text'" in (said := capsys.readouterr().err) and "--text" in said
    assert main(["predict", str(program), str(tmp_path / "rows.tsv"), "--text", "review"]) == 0
    assert _answers(capsys.readouterr().out)[0]["adapter"] == "5 volts"  # a column like any other


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_several_labels_or_numbers_are_all_written(
    saved: Callable[..., Path], tmp_path: Path, capsys: Capture, problem: str
) -> None:
    mapping = hr.LinearConfig(pool="mean", solver="gradient")
    program = {"type": "prompt", "template": "{prompt:2} {text}"}
    folder = saved(hr.ReprogramConfig(program=program, mapping=mapping, labels=["a", "b", "c"], problem_type=problem))
    (tmp_path / "rows.txt").write_text("my phone broke\n")
    assert main(["predict", str(folder / "program"), str(tmp_path / "rows.txt")]) == 0
    (answer,) = _answers(capsys.readouterr().out)
    assert sorted(a["label"] for a in answer["top"]) == ["a", "b", "c"]
    if problem == "regression":
        assert "labels" not in answer
    else:
        assert answer["labels"] == [a["label"] for a in answer["top"] if a["score"] > 0.5]


def test_options_stand_before_or_after_the_file(program: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "rows.txt").write_text("my phone broke\n")
    base, rows = ["--base", str(program.parent / "base")], str(tmp_path / "rows.txt")
    said = []
    for arguments in ([str(program), rows, *base], [str(program), *base, rows], [*base, str(program), rows]):
        assert main(["predict", *arguments]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and said[0].count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(program), *base, rows, "--bsae", "x"])
    assert "unrecognized arguments: --bsae x" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["", "{", '{"text": ""}', '{"text": 3, "x": \n', '{"txt": "a"}', "[]"])
def test_a_line_that_cannot_be_used_ends_the_run_after_the_lines_before_it(
    program: Path, tmp_path: Path, capsys: Capture, bad: str
) -> None:
    good = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join([*good[:3], bad, *good[3:]]) + "\n")
    arguments = ["predict", str(program), str(tmp_path / "rows.jsonl")]
    if bad == "":  # an empty line is no row
        assert main(arguments) == 0
        assert len(_answers(capsys.readouterr().out)) == len(TEXTS)
        return
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert [a["text"] for a in _answers(out)] == TEXTS[:3]
    assert f"hf-reprogram: {tmp_path}/rows.jsonl, line 4" in err and err.count("\n") == 1


def test_sounds_are_refused_by_a_program_that_reads(program: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(program), "--audio", "clip.wav"]) == 2
    assert "--audio: given, and the program reads text. Expected rows with ['text']" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text('{"audio": "clip.wav"}\n')
    assert main(["predict", str(program), str(tmp_path / "rows.jsonl")]) == 2
    assert "line 1: no column 'text' but 'audio', and the program reads text" in capsys.readouterr().err


def test_output_is_there_when_all_is_done(program: Path, tmp_path: Path, capsys: Capture) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    out.write_text("older")
    arguments = ["predict", str(program), str(rows), "--output", str(out)]
    rows.write_text('{"text": "my phone broke"}\n{"text": 1')
    assert main(arguments) == 2
    assert out.read_text() == "older"
    assert len(_answers((tmp_path / "out.jsonl.part").read_text())) == 1
    rows.write_text('{"text": "my phone broke"}\n{"text": "so good"}\n')
    assert main(arguments) == 0
    assert len(_answers(out.read_text())) == 2 and not (tmp_path / "out.jsonl.part").exists()
    assert capsys.readouterr().out == ""


def test_output_that_cannot_be_written(program: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "rows.txt").write_text("my phone broke\n")
    for name, says in ((str(tmp_path / "no" / "out"), "could not be written"), ("/dev/null", "is no ordinary file")):
        assert main(["predict", str(program), str(tmp_path / "rows.txt"), "--output", name]) == 2
        assert says in capsys.readouterr().err
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["nowhere.csv", "", "a\0b", "."])
def test_files_that_cannot_be_read(program: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
    assert main(["predict", str(program), name]) == 2
    said = capsys.readouterr().err
    assert "hf-reprogram: " in said and ("is a folder" if name == "." else "could not be") in said


@pytest.mark.parametrize("arguments", [["--batch-size", "0"], ["--top-k", "-1"], ["--top-k", "many"]])
def test_counts_are_counts(program: Path, capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(program), *arguments])
    assert "whole, from 1" in capsys.readouterr().err


def test_a_program_without_labels_is_refused(saved: Callable[..., Path], tmp_path: Path, capsys: Capture) -> None:
    plain = saved(hr.ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text}"})) / "program"
    assert main(["predict", str(plain), os.devnull]) == 2
    assert "has no labels" in capsys.readouterr().err


def test_the_base_may_have_moved(saved: Callable[..., Path], tmp_path: Path, capsys: Capture) -> None:
    folder = saved()
    (folder / "base").rename(folder / "moved")
    (tmp_path / "rows.txt").write_text("my phone broke\n")
    arguments = ["predict", str(folder / "program"), str(tmp_path / "rows.txt")]
    assert main(arguments) == 2
    assert "could not be loaded" in capsys.readouterr().err
    assert main([*arguments, "--base", str(folder / "moved")]) == 0
    assert len(_answers(capsys.readouterr().out)) == 1


def test_an_endless_pipe_is_answered_as_it_comes(
    program: Path, expected: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line's answer is there before the next line is written."""
    (reader, writer), (answers, out) = os.pipe(), os.pipe()
    with (
        open(answers) as found, open(out, "w") as stdout, open(reader) as stdin, ThreadPoolExecutor(1) as pool,
        open(writer, "w") as lines,
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        status = pool.submit(main, ["predict", str(program)])
        for text, wanted in zip(TEXTS[:3], expected, strict=False):
            lines.write(text + "\n")
            lines.flush()
            assert select.select([answers], [], [], 60)[0], "no answer while the pipe is open"
            answer = json.loads(found.readline())
            assert answer["text"] == text and answer["label"] == wanted["label"]
        lines.close()
        assert status.result() == 0
        stdout.close()
        assert found.read() == ""


def test_rows_of_like_length_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks hold several batches, so that there is something to sort; a pause ends one early."""
    taken = []

    def predicted(rows: list, batch_size: int, top_k: int, progress: bool) -> list:
        taken.append(len(rows))
        return [{"label": "x", "score": 1.0}] * len(rows)

    collator = SimpleNamespace(lay_out=lambda rows: None)
    kind = "single_label_classification"
    model = SimpleNamespace(
        columns=lambda: ["text"], collator=lambda: collator, problem_type=lambda: kind, predict=predicted
    )
    classify = SimpleNamespace(model=model)
    options = SimpleNamespace(text=None, batch_size=4, top_k=None)
    reader, writer = os.pipe()
    os.write(writer, b"a\n" * 40)
    monkeypatch.setattr(predict, "_PAUSE", 0)
    found = predict._answered(classify, predict.Lines(reader, "pipe"), options)
    assert [len(next(found)[0]) for _ in range(2)] == taken == [32, 8]
    os.close(writer)
    assert list(found) == []
    os.close(reader)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_a_terminal_only(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    (tmp_path / "rows.txt").write_text("my phone broke\n" * 20)
    stderr = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["predict", str(program), str(tmp_path / "rows.txt"), "--output", str(tmp_path / "out")]) == 0
    assert ("20/20" in stderr.getvalue()) is terminal
    assert terminal or stderr.getvalue() == ""
