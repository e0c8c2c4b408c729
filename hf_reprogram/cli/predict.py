"""Label rows, or write what is said in them.

Reads JSONL, CSV, TSV or plain lines from a file or a pipe, and writes every row as a line of JSON with the target
label and its probability:

    {"text": "Great sound.", "stars": 5, "label": "positive", "score": 0.98}

A program that writes texts gives `text` and `score`.

For a base that hears, rows have a path in `audio`, or numbers in `series`; a plain line is a path.

The row's own columns come first, as they were; one that is itself called `label`, `labels`, `score` or `top`
becomes `input_label` and so on. Where a row may have several labels, or numbers, `top` lists them all; `labels` names
those of a probability above one half.

Rows are answered as they come: the pipe may have no end, and a person may type them. The first line that cannot be
used ends the run with its number; the answers to the lines before it are written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..data.files import Lines, place, read_rows
from ..errors import DataError, ReprogramError, UsageError, did_you_mean
from ._program import add_program, classifier


HELP = "label rows of a file or a pipe, or write what is said in them"
_CHUNK = 8  # batches that are sorted by length together
_PAUSE = 0.5  # seconds without a new row after which those at hand are answered
_OURS = ("label", "labels", "score", "top")

Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The program, where rows come from and where they go."""
    add_program(parser)
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="rows; - is stdin, the default")
    parser.add_argument("--audio", metavar="SOUND", nargs="+", help="audio files, in the place of FILE")
    parser.add_argument("--text", metavar="COLUMN", help="the column that stands for the template's first one")
    parser.add_argument(
        "--batch-size", metavar="N", type=_count, default=32, help="rows per forward; default %(default)s"
    )
    parser.add_argument("--top-k", metavar="K", type=_count, help="also a list `top` of the K best labels")
    parser.add_argument("--output", metavar="FILE", help="instead of stdout; until all is done it is called FILE.part")


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


_count.__name__ = "number (whole, from 1)"  # what argparse calls it in its error


def run(options: argparse.Namespace) -> int:
    """Answer rows until there are no more."""
    with ExitStack() as stack:
        lines = stack.enter_context(_input(options))
        classify = classifier(options)
        if classify.model.problem_type() != "transcription":
            classify.model.label_names()  # raises where there are none
        if options.audio and classify.model.backbone.modality == "text":
            what, wanted = "given, and the program reads text", f"rows with {classify.model.columns()}"
            fix = f"hf-reprogram predict {options.program} FILE, or lines of text from a pipe"
            raise UsageError("--audio", what, wanted, fix)
        out = stack.enter_context(_output(options.output)) if options.output else sys.stdout
        out.reconfigure(encoding="utf-8")
        bar = stack.enter_context(_bar(options))
        for numbers, answers in _answered(classify, lines, options):
            out.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
            out.flush()
            bar.update(numbers[-1] - bar.n)
    return 0


def _answered(classify: Any, lines: Lines, options: argparse.Namespace) -> Iterator[tuple[list[int], list[Row]]]:
    """Numbers of lines, and their rows with answers: as many as are there, at most some batches."""
    columns = classify.model.columns()
    sources = {**{column: column for column in columns}, **({columns[0]: options.text} if options.text else {})}
    collator = classify.model.collator()
    rows = read_rows(lines, lines.name, sources[columns[0]], list(sources.values()))
    failed: ReprogramError | None = None
    if options.top_k is not None:
        classify.check({"top_k": options.top_k})
    kind = classify.model.problem_type()
    every = kind in ("multi_label_classification", "regression")  # a row has several labels, or several numbers: all
    top_k = options.top_k or (None if every else 1)
    while failed is None:
        numbers, found, failed = _take(rows, lines, options.batch_size * _CHUNK)
        wanted = []
        for number, row in zip(numbers, found, strict=True):
            try:
                wanted.append(_wanted(collator, row, sources, place(lines.name, number)))
            except DataError as error:
                failed = error
                break
        found, numbers = found[: len(wanted)], numbers[: len(wanted)]
        if wanted:
            answers = classify.model.predict(wanted, options.batch_size, top_k, progress=False)
            if options.top_k is not None:
                answers = [answer if isinstance(answer, list) else [answer] for answer in answers]
            several = kind == "multi_label_classification"
            yield numbers, [_with(row, answer, several) for row, answer in zip(found, answers, strict=True)]
        elif failed is None:
            return
    raise failed


def _take(rows: Iterator[tuple[int, Row]], lines: Lines, most: int) -> tuple[list[int], list[Row], DataError | None]:
    """The next rows with their numbers: up to `most`, a pause, the end, or a line that cannot be read."""
    numbers: list[int] = []
    taken: list[Row] = []
    try:
        for number, row in rows:
            numbers.append(number)
            taken.append(row)
            if len(taken) == most or not lines.ready(_PAUSE):
                break
    except DataError as error:
        return numbers, taken, error
    return numbers, taken, None


def _wanted(collator: Any, row: Row, sources: dict[str, str], where: str) -> Row:
    """What the template takes from a row. Raises where it cannot be laid out."""
    if "series" in row and "audio" in sources:
        sources = {"series": "series"}
    for source in sources.values():
        if source not in row:
            from ..data.rows import SOUND_COLUMNS

            hears, heard = "audio" in sources, next((c for c in SOUND_COLUMNS if c in row), None)
            fix = f"{did_you_mean(source, row)}; --text names the column to read"
            what = f"no column {source!r}"
            if hears:
                what, fix = f"{what}, and the program hears", f"{fix}; --audio takes files of sound"
            elif heard is not None:
                what = f"{what} but {heard!r}, and the program reads text"
            raise DataError(where, what, f"the columns {list(sources.values())}", fix)
    wanted = {column: row[source] for column, source in sources.items()}
    try:
        collator.lay_out([wanted])
    except DataError as error:
        raise DataError(error.where.replace("rows[0]", where), error.what, error.expected, error.fix) from error
    return wanted


def _with(row: Row, answer: Row | Sequence[Row], several: bool) -> Row:
    ours = {*_OURS, *(answer if isinstance(answer, dict) else ())}
    kept = {f"input_{name}" if name in ours else name: value for name, value in row.items()}
    if isinstance(answer, dict):
        return {**kept, **answer}
    from ..metrics import HALF

    likely = {"labels": [each["label"] for each in answer if each["score"] > HALF]} if several else {}
    return {**kept, **answer[0], **likely, "top": answer}


@contextmanager
def _input(options: argparse.Namespace) -> Iterator[Lines]:
    name = options.file
    if options.audio:
        if name != "-":
            raise UsageError("--audio", f"given beside {name!r}", "one of them")
        with tempfile.TemporaryFile() as listed:  # as if they had been lines of a file
            listed.write("".join(json.dumps({"audio": path}) + "\n" for path in options.audio).encode())
            listed.seek(0)
            yield Lines(listed.fileno(), "--audio")
        return
    if name == "-":
        yield Lines(sys.stdin.fileno(), "stdin")
        return
    if os.path.isdir(name):
        raise DataError(name, "is a folder", "a file of rows, or - for stdin", "--audio FOLDER/*.wav for sounds")
    try:
        descriptor = os.open(name, os.O_RDONLY)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(name, f"could not be opened ({why})", "a file of rows, or - for stdin") from error
    try:
        yield Lines(descriptor, name)
    finally:
        os.close(descriptor)


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    """A file that is there once all is written. What an error leaves half done keeps the name with `.part`."""
    path, part = Path(name), Path(f"{name}.part")
    if path.exists() and not path.is_file():
        raise UsageError("--output", f"{name} is no ordinary file", "a file", "leave it out, and redirect stdout")
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise UsageError("--output", f"{name} could not be written ({error.strerror})", "a file to write") from error
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _bar(options: argparse.Namespace) -> Any:
    """Progress on stderr, where that is a terminal; lines that fly past on stdout are progress enough."""
    from tqdm.auto import tqdm

    hidden = not sys.stderr.isatty() or (options.output is None and sys.stdout.isatty())
    total = None
    if not hidden and Path(options.file).is_file():
        with open(options.file, "rb") as file:
            total = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return tqdm(total=total, desc="predict", unit=" lines", disable=hidden)
