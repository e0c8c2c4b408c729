"""What a user may call rows, and how a row's label becomes an id."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, did_you_mean
from ..losses import IGNORED


LABEL_COLUMNS = ("label", "labels")
SAID_COLUMNS = ("text", *LABEL_COLUMNS)  # of sounds, where the targets are what is said
SOUND_COLUMNS = ("audio", "series", "array", "raw", "bytes")  # what a row of sound has, and no row of text


SAMPLES = 'samples go with their rate: {"audio": {"array": ..., "sampling_rate": 16000}}'


def as_rows(rows: Any, column: str) -> list[dict[str, Any]]:
    """A list of dict rows from a text, a row, or an iterable of either (a `datasets.Dataset` is one).

    Args:
        rows: what the user gave.
        column: the column that a bare text stands for.
    """
    if isinstance(rows, str | os.PathLike | Mapping):
        rows = [rows]
    if not isinstance(rows, Iterable):
        raise DataError("rows", f"{repr(rows)[:80]} is a {type(rows).__name__}", "a text, a dict, or a list of these")
    check_frame(rows, "rows")
    rows = undecoded(rows)
    made = []
    for i, row in enumerate(rows):
        if isinstance(row, str | os.PathLike):
            row = {column: os.fspath(row)}
        if not isinstance(row, Mapping):
            what = f"{' '.join(repr(row)[:80].split())} is a {type(row).__name__}"
            if column != "audio":
                raise DataError(f"rows[{i}]", what, "a text or a dict")
            fix = '{"audio": ...} round the bytes of a file' if isinstance(row, bytes) else SAMPLES
            raise DataError(f"rows[{i}]", what, 'a path, {"audio": ...} or {"series": [...]}', fix)
        made.append(dict(row))
    if not made:
        raise DataError("rows", "empty", "at least one row")
    return made


def check_frame(rows: Any, where: str) -> None:
    """Raise for a table of pandas, polars or pyarrow: a walk through one gives its columns."""
    if hasattr(rows, "columns") and not isinstance(rows, Mapping):
        fix = "datasets.Dataset.from_pandas(frame), or frame.to_dict('records')"
        raise DataError(where, f"a {type(rows).__name__}", "a text, a dict, or many of these", fix)


def undecoded(rows: Any) -> Any:
    """A dataset whose audio columns come as their files: decoding by `datasets` would need torchcodec and FFmpeg."""
    features = getattr(rows, "features", None)
    if not isinstance(features, Mapping) or not hasattr(rows, "cast_column"):
        return rows
    for name, feature in features.items():
        if type(feature).__name__ == "Audio" and feature.decode:
            rows = rows.cast_column(name, type(feature)(sampling_rate=feature.sampling_rate, decode=False))
    return rows


def text_of(value: Any, where: str) -> str:
    """A column's value as a text; a number is one too."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        value = str(value)
    if not isinstance(value, str):
        missing = isinstance(value, float)  # how tables say that there is none
        kind = "a missing value" if missing else f"a {type(value).__name__}"
        raise DataError(where, f"{value!r} is {kind}", "a text", "drop such rows" if missing else None)
    if not value.strip():
        raise DataError(where, f"{value!r} is empty", "a text", "drop such rows")
    try:
        value.encode()
    except UnicodeEncodeError:
        what, fix = f"{value[:80]!r} holds half of a surrogate pair", "text.encode('utf-8', 'replace').decode()"
        raise DataError(where, what, "letters of Unicode", fix) from None
    return value


def program_of(row: Mapping[str, Any], known: Mapping[str, Any], active: str, where: str) -> str:
    """The program that a row names in its `adapter` column, else the active one.

    Raises:
        DataError: a program that the collator does not know.
    """
    name = active if row.get("adapter") is None else row["adapter"]
    if not isinstance(name, str) or name not in known:
        fix = did_you_mean(name, known) + "; after add_adapter call collator() again"
        raise DataError(f"{where}['adapter']", f"unknown program {name!r}", fix=fix)
    return name


def label_columns(problem_type: str, hears: bool) -> tuple[str, ...]:
    """Columns in which a row's target may stand, the usual one first. A text's own column is no target."""
    return SAID_COLUMNS if hears and problem_type == "transcription" else LABEL_COLUMNS


def label_of(row: Mapping[str, Any], columns: Sequence[str] = LABEL_COLUMNS) -> Any:
    """The row's label as given, None where it has none."""
    column = label_column(row, columns)
    return None if column is None else row[column]


def label_column(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The column that holds it."""
    return next((c for c in columns if row.get(c) is not None), None)


def label_tensor(labels: Sequence[Any]) -> Tensor:
    """Targets of rows as the loss takes them, (rows, ...); ids of texts are filled up with -100.

    Example:

        >>> label_tensor([[3, 1], [2]]).tolist(), label_tensor([[0.0, 1.0]]).tolist()
        ([[3, 1], [2, -100]], [[0.0, 1.0]])
    """
    if not all(isinstance(row, list) and all(isinstance(i, int) for i in row) for row in labels):
        return torch.tensor(labels)
    width = max(1, *map(len, labels))
    return torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in labels])


def label_names(features: Any) -> list[str] | None:
    """Names of the integer labels of a dataset: from its features (a ClassLabel column), or a list of names."""
    if features is None:
        return None
    if isinstance(features, Mapping):
        found = next((features[c] for c in LABEL_COLUMNS if c in features), None)
        return list(found.names) if getattr(found, "names", None) else None
    if isinstance(features, Sequence) and not isinstance(features, str) and all(isinstance(n, str) for n in features):
        return list(features)
    raise DataError(
        "features", f"{features!r}", "dataset.features, or the list of label names in the order of their ids"
    )


def target_of(
    value: Any, labels: Sequence[str], problem_type: str, names: Sequence[str] | None, where: str
) -> int | list[float]:
    """A row's label as the loss takes it: an id; for several labels or numbers, one number for each of `labels`.

    Args:
        value: the row's label. Multi-label: a list of names, or one number from 0 to 1 for each label. Regression: a
            number, or one for each of several outputs.
        labels: names of the target labels.
        problem_type: a key of `losses.LOSSES`.
        names: what integer labels stand for.
        where: how errors name the row.

    Raises:
        DataError: unknown label, wrong width, NaN.
    """
    if problem_type == "single_label_classification":
        return label_id(value, labels, names, where)
    given = value.tolist() if hasattr(value, "tolist") else value
    several = problem_type == "multi_label_classification" and isinstance(given, list | tuple | set | frozenset)
    if several and all(isinstance(v, str) for v in given):
        ids = {label_id(v, labels, None, where) for v in given}
        return [float(i in ids) for i in range(len(labels))]
    numbers = [given] if problem_type == "regression" and not isinstance(given, list | tuple) else given
    expected = f"{len(labels)} number{'s' if len(labels) > 1 else ''}, for {list(labels)}"
    if problem_type == "multi_label_classification":
        expected += ", or a list of names"
    if not isinstance(numbers, list | tuple) or len(numbers) != len(labels):
        raise DataError(where, f"{value!r}", expected)
    try:
        made = [float(v) for v in numbers if not isinstance(v, str)]
    except (TypeError, ValueError):
        made = []
    if len(made) != len(labels) or not all(map(math.isfinite, made)):
        raise DataError(where, f"{value!r}", f"finite {expected}", "drop such rows")
    if problem_type == "multi_label_classification" and not all(0 <= v <= 1 for v in made):
        raise DataError(where, f"{value!r}", f"{expected}, each from 0 to 1")
    return made


def label_id(value: Any, labels: Sequence[str], names: Sequence[str] | None, where: str) -> int:
    """The id of a row's label.

    Integers are understood only where something says which names they stand for: a dataset whose classes stand in
    another order than the config's would otherwise be learned upside down without a word (N17).

    Raises:
        DataError: unknown label, with the nearest one; an integer that nothing names, or outside the labels.
    """
    if isinstance(value, str):
        if value not in labels:
            raise DataError(where, f"unknown label {value!r}", fix=did_you_mean(value, labels))
        return list(labels).index(value)
    try:  # numpy's and torch's integers too, but no truth value: True is an int to Python
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise DataError(where, f"{value!r} is neither a label's name nor its id", f"one of {list(labels)}")
    if names is None:
        raise DataError(
            where,
            f"{number} is an integer, and nothing says which label it means",
            f"one of {list(labels)}",
            "pass collator(features=dataset.features), or features=[...], the names in the order of their ids",
        )
    if not 0 <= number < len(names):
        raise DataError(where, f"{number} is outside the labels", f"0 to {len(names) - 1}")
    return label_id(names[number], labels, None, where)
