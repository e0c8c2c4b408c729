"""Rows from lines: what each form gives, which form it is, and where a bad line stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hf_reprogram.data import files
from hf_reprogram.data.files import Lines, read_rows
from hf_reprogram.errors import DataError


def _rows(data: bytes, name: str = "stdin", columns: tuple[str, ...] = ("text",)) -> list[tuple[int, dict[str, Any]]]:
    return list(read_rows(data.splitlines(keepends=True), name, columns[0], columns))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"text": "a", "n": 1}\n\n{"text": "b"}', [(1, {"text": "a", "n": 1}), (3, {"text": "b"})]),
        (b'{"text": "a"}\n"b"\n', [(1, {"text": "a"}), (2, {"text": "b"})]),
        (b"text,n\na,1\n\nb,2\n", [(2, {"text": "a", "n": "1"}), (4, {"text": "b", "n": "2"})]),
        (b'text,n\n"a, ""b""\nc",1\nd,2', [(2, {"text": 'a, "b"\nc', "n": "1"}), (4, {"text": "d", "n": "2"})]),
        (b"n\ttext\r\n1\ta, b\r\n", [(2, {"n": "1", "text": "a, b"})]),
        (b"a, b\r\n\n  c\n", [(1, {"text": "a, b"}), (3, {"text": "c"})]),
        (b"\xef\xbb\xbf" + "grün\n".encode(), [(1, {"text": "grün"})]),
        (b"", []),
        (b"text,n\n", []),
    ],
    ids=["jsonl", "jsonl-text", "csv", "csv-quotes", "tsv-crlf", "lines", "byte-order-mark", "nothing", "header-only"],
)
def test_the_first_line_says_what_it_is(data: bytes, expected: list) -> None:
    assert _rows(data) == expected


def test_the_suffix_says_it_before_the_first_line() -> None:
    assert _rows(b"review,n\na,1\n", "x.CSV") == [(2, {"review": "a", "n": "1"})]
    assert _rows(b'"a"\n', "x.jsonl") == [(1, {"text": "a"})]


def test_a_header_names_all_columns() -> None:
    """A line of text that has a comma, and a column's name in it, is no header."""
    assert _rows(b"premise,more\na,b\n", columns=("premise", "claim"))[0] == (1, {"premise": "premise,more"})
    assert _rows(b"premise,claim\na,b\n", columns=("premise", "claim")) == [(2, {"premise": "a", "claim": "b"})]


@pytest.mark.parametrize(
    ("name", "data", "line", "says"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', 2, "is no JSON"),
        ("x.jsonl", b'{"text": "a"}\n\n[1]\n', 3, "is a list"),
        ("x.jsonl", b'{"text": "\\ud800"}\n', 1, "is no JSON"),
        ("x.jsonl", b"9" * 5000 + b"\n", 1, "is no JSON"),
        ("x.jsonl", b"[" * 100_000 + b"\n", 1, "is no JSON"),
        ("x.csv", b"text,n\na,1\nb\n", 3, "1 cells in 'b'. Expected 2"),
        ("x.csv", b'text,n\n"a\nb",1\n"c"d,2\n', 4, "cannot be read as a row"),
        ("x.csv", b'text\n"a\nb\n', 2, "cannot be read as a row"),
        ("x.csv", b"text,text\n", 1, "a header of different names"),
        ("x.csv", b"text,\n", 1, "a header of different names"),
        ("x", b"a\nb\xff\n", 2, r"byte b'\\xff' at 2 is no UTF-8"),
    ],
)
def test_a_bad_line_is_named_after_the_rows_before_it(name: str, data: bytes, line: int, says: str) -> None:
    rows = read_rows(data.splitlines(keepends=True), name, "text", ["text"])
    with pytest.raises(DataError, match=f"^{name}, line {line}: .*{says}"):
        for number, _ in rows:
            assert number < line


def test_rows_are_read_one_at_a_time() -> None:
    def endless():
        yield b"a\n"
        yield b"b\n"
        raise AssertionError("read ahead")

    rows = read_rows(endless(), "stdin", "text", ["text"])
    assert [next(rows)[1]["text"], next(rows)[1]["text"]] == ["a", "b"]


class TestLines:
    def test_lines_of_a_pipe_come_as_they_are_written(self) -> None:
        reader, writer = os.pipe()
        lines = Lines(reader, "pipe")
        assert not lines.ready(0)
        os.write(writer, b"one\ntwo\nthr")
        assert lines.ready(0) and next(lines) == b"one\n" and next(lines) == b"two\n"
        assert not lines.ready(0)
        os.write(writer, b"ee")
        os.close(writer)
        assert list(lines) == [b"three"]
        assert lines.ready(0)
        os.close(reader)

    def test_lines_longer_than_a_block(self, tmp_path: Path) -> None:
        content = [b"a" * 3_000_000 + b"\n", b"\n", b"b" * 10]
        (tmp_path / "file").write_bytes(b"".join(content))
        with open(tmp_path / "file", "rb") as file:
            assert list(Lines(file.fileno(), "file")) == content

    def test_what_has_no_lines_is_no_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "_LONGEST", 1000)
        (tmp_path / "file").write_bytes(bytes(2000))
        with open(tmp_path / "file", "rb") as file, pytest.raises(DataError, match="a line of more than"):
            list(Lines(file.fileno(), "file"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(DataError, match=r"folder: could not be read \(Is a directory\)"):
            next(Lines(descriptor, "folder"))
        os.close(descriptor)
