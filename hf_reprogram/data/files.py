"""Rows from a file or a pipe: JSONL, CSV, TSV or plain lines, one at a time, each with its line number."""

from __future__ import annotations

import csv
import json
import os
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Any

from ..errors import DataError


_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}

_LONGEST = 1 << 24  # bytes of a line; what has longer ones is no text

Numbered = Iterator[tuple[int, dict[str, Any]]]


class Lines:
    """Lines of an open file or pipe, as bytes, taken as they come.

    Args:
        descriptor: open for reading; it may have no end.
        name: what errors call it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor, self.name = descriptor, name
        self._lines: list[bytes] = []  # complete ones, the next one last
        self._rest, self._ended = b"", False

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        while not self._lines and not self._ended:
            self._read()
        if self._lines:
            return self._lines.pop()
        last, self._rest = self._rest, b""
        if not last:
            raise StopIteration
        return last

    def ready(self, seconds: float) -> bool:
        """Whether something more can be had within this time (the end, too)."""
        if self._lines or self._ended or sys.platform == "win32":  # where pipes cannot be asked
            return True
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def _read(self) -> None:
        try:
            data = os.read(self.descriptor, 1 << 20)
        except OSError as error:  # a folder
            raise DataError(self.name, f"could not be read ({error.strerror})", "a file or a pipe") from error
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._lines = [line + b"\n" for line in reversed(whole)]
        self._ended = not data
        if len(self._rest) > _LONGEST:
            raise DataError(self.name, f"a line of more than {_LONGEST >> 20} MB", "a text file")


def read_rows(lines: Iterable[bytes], name: str, column: str, columns: Sequence[str]) -> Numbered:
    """(line number, row) of every row, each read when it is asked for.

    The name's suffix says what it holds: `.jsonl`, `.ndjson`, `.csv`, `.tsv`. Otherwise its first line does: one that
    begins with a brace is JSONL, one that names all `columns` between commas or tabs is the header of a table,
    anything else is a text, as are all lines after it. Empty lines are no rows.

    Args:
        lines: UTF-8, with their ends.
        name: what errors call it.
        column: the column that a bare text stands for.
        columns: those that a header must name.

    Raises:
        DataError: at the first line that cannot be read, with its number.

    Example:

        >>> list(read_rows([b"text,stars\\n", b"fine,4\\n"], "stdin", "text", ["text"]))
        [(2, {'text': 'fine', 'stars': '4'})]
        >>> list(read_rows([b"Great sound.\\n", b"\\n", b"It broke.\\n"], "stdin", "text", ["text"]))
        [(1, {'text': 'Great sound.'}), (3, {'text': 'It broke.'})]
    """
    texts = _decoded(lines, name)
    first = next(texts, None)
    if first is None:
        return
    kind = _SUFFIXES.get(PurePath(name).suffix.lower()) or _kind(first, columns)
    texts = chain([first], texts)
    if kind == "jsonl":
        yield from _json_rows(texts, name, column)
    elif kind in _DELIMITERS:
        yield from _table_rows(texts, name, _DELIMITERS[kind])
    else:
        yield from ((i, {column: text}) for i, line in enumerate(texts, 1) if (text := line.strip()))


def place(name: str, line: int) -> str:
    """How errors name a line.

    Example:

        >>> place("reviews.csv", 3)
        'reviews.csv, line 3'
    """
    return f"{name}, line {line}"


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for i, raw in enumerate(lines, 1):
        try:
            yield raw.decode("utf-8-sig" if i == 1 else "utf-8")  # a mark of byte order is no text
        except UnicodeDecodeError as error:
            bad = raw[error.start : error.start + 1]
            raise DataError(place(name, i), f"byte {bad!r} at {error.start + 1} is no UTF-8", "UTF-8") from error


def _kind(first: str, columns: Sequence[str]) -> str:
    if first.lstrip().startswith("{"):
        return "jsonl"
    for kind, delimiter in _DELIMITERS.items():
        header = next(csv.reader([first], delimiter=delimiter), [])
        if set(columns) <= {cell.strip() for cell in header}:
            return kind
    return "lines"


def _json_rows(lines: Iterator[str], name: str, column: str) -> Numbered:
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a character ("\ud800") is JSON, but no text
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, thousands of brackets
            why = getattr(error, "msg", None) or str(error)
            raise DataError(place(name, i), f"{_shown(line)} is no JSON ({why})", "an object on every line") from error
        if isinstance(row, str):
            row = {column: row}
        if not isinstance(row, dict):
            what = f"{_shown(line)} is a {type(row).__name__}"
            raise DataError(place(name, i), what, f'an object such as {{"{column}": ...}}')
        yield i, row


def _table_rows(lines: Iterator[str], name: str, delimiter: str) -> Numbered:
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = (
            table.line_num + 1
        )  # a quoted cell may hold line ends: a row begins after the last line of the one before
        try:
            cells = next(table, None)
        except csv.Error as error:
            what = f"cannot be read as a row of the table ({error})"
            raise DataError(place(name, start), what, 'cells that hold quotes or line ends in "quotes"') from error
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header) or "" in header:
                raise DataError(place(name, start), f"{header}", "a header of different names")
        elif len(cells) != len(header):
            raise DataError(
                place(name, start),
                f"{len(cells)} cells in {_shown(delimiter.join(cells))}",
                f"{len(header)}, as the header has",
            )
        else:
            yield start, dict(zip(header, cells, strict=True))


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
