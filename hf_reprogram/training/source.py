"""Labelled rows from wherever `datasets` finds them: files, the Hub, streams; and the part that is set aside."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean, first_line
from .recipe import SUFFIXES, DataRecipe


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Rows to learn from (a list-like dataset, or a stream), rows to validate on, and names of integer labels."""

    train: Any
    validation: Any
    names: list[str] | None


def load(
    data: DataRecipe, wanted: Sequence[str], labels: Sequence[str] | None, seed: int = 0, alone: bool = False
) -> Source:
    """The rows of a recipe: columns by the template's names, every label known, a validation part set aside.

    Args:
        data: the recipe's section.
        wanted: columns of the template.
        labels: target labels, of which each row has one; None for other targets.
        seed: of the validation split.
        alone: whether rows without a label teach themselves: no column of labels is needed.

    Raises:
        DataError: a missing file, dataset or column; rows without label, labels that the config does not have.
    """
    train, names = labelled(data, wanted, labels, "data.train", alone)
    if data.validation is not None or data.validation_split is not None:
        other = replace(
            data,
            train=data.validation if data.validation is not None else data.train,
            split=data.validation_split or "validation",
            streaming=False,
        )
        validation, other_names = labelled(other, wanted, labels, "data.validation", alone)
        if names != other_names and None not in (names, other_names):
            what = f"integers stand for {other_names}, in data.train for {names}"
            raise DataError("data.validation", what, "the same names", "data.label_names")
    else:
        train, validation = set_aside(train, data.validation_share, seed)
    if data.streaming:
        train = train.shuffle(seed=seed, buffer_size=1000)
    return Source(train, validation, names)


def folder_labels(data: DataRecipe) -> list[str] | None:
    """Names of the folders of sounds in `data.train`, sorted; None where it is no such folder."""
    from ..data.audio import sounds_in

    if not isinstance(data.train, str) or not Path(data.train).is_dir():
        return None
    return sorted({row["label"] for row in sounds_in(data.train) if "label" in row}) or None


def labelled(
    data: DataRecipe, wanted: Sequence[str], labels: Sequence[str] | None, where: str, alone: bool = False
) -> tuple[Any, list[str] | None]:
    """(rows, names of their integer labels) of `data.train`: the wanted columns and `label`, nothing else."""
    rows = _columns(_open(data, where), data, wanted, where, alone)
    features = rows.features or {}
    names = data.label_names or getattr(features.get("label"), "names", None)
    if not data.streaming and "label" in rows.column_names:
        _check_labels(rows["label"], names, labels, where)
    return rows, names


def _open(data: DataRecipe, where: str) -> Any:
    """The dataset behind a name or files."""
    import datasets

    from ..data.audio import sounds_in  # not with the file: a recipe is looked through before torch is loaded

    files = [data.train] if isinstance(data.train, str) else list(data.train)
    is_file = [not Path(f).is_dir() and (_suffix(f) in SUFFIXES or f.startswith(("/", "."))) for f in files]
    try:
        if len(files) == 1 and Path(files[0]).is_dir() and (sounds := sounds_in(files[0])):
            rows = datasets.Dataset.from_list(sounds)
            return rows.to_iterable_dataset() if data.streaming else rows
        if all(is_file):
            found = [path for f in files for path in _existing(f, where)]
            kind, options = _format(found, where)
            rows = datasets.load_dataset(
                kind, data_files={"train": found}, split="train", streaming=data.streaming, **options
            )
        elif len(files) == 1:
            rows = datasets.load_dataset(
                files[0], data.subset, split=data.split, revision=data.revision, streaming=data.streaming
            )
        else:
            raise DataError(where, f"{files}", "one Hub name, or files")
    except DataError:
        raise
    except Exception as error:  # every reader of every format has errors of its own
        cause = error.__cause__ or error
        fix = None if all(is_file) else "a file ends with " + ", ".join(SUFFIXES) + ", each also .gz"
        raise DataError(where, f"{data.train!r} could not be read ({first_line(cause)})", None, fix) from error
    if not data.streaming and not len(rows):
        raise DataError(where, f"{data.train!r} has no rows", "at least one")
    return rows


def look_for_files(data: DataRecipe) -> None:
    """Raise where a file that the recipe names is not there; Hub names are not asked for.

    Raises:
        DataError: names the file, and the nearest one beside it.
    """
    for where, given in (("data.train", data.train), ("data.validation", data.validation)):
        for name in [given] if isinstance(given, str) else given or []:
            if _suffix(name) in SUFFIXES:
                _existing(name, where)


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix


def _existing(name: str, where: str) -> list[str]:
    """Files that a name or pattern stands for."""
    found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
    missing = next((f for f in found if not Path(f).is_file()), None if found else name)
    if missing is not None:
        folder = Path(missing).parent
        near = [p.name for p in folder.iterdir() if _suffix(p.name) in SUFFIXES] if folder.is_dir() else []
        fix = did_you_mean(Path(missing).name, near) if near else f"{folder} is not there or has no files of rows"
        raise DataError(where, f"{missing} is no file", "a file", fix)
    return found


def _format(files: list[str], where: str) -> tuple[str, dict[str, Any]]:
    """(reader, its options) of files."""
    suffixes = sorted({_suffix(f) for f in files})
    if len(suffixes) != 1 or suffixes[0] not in SUFFIXES:
        raise DataError(where, f"files of type {', '.join(suffixes)}", "one of " + ", ".join(SUFFIXES))
    if suffixes[0] in (".csv", ".tsv"):
        # Texts such as NA, None and null are texts; pandas would read a missing value.
        return "csv", {"keep_default_na": False, **({"sep": "\t"} if suffixes[0] == ".tsv" else {})}
    return suffixes[0].removesuffix("l").removeprefix("."), {}


def _columns(rows: Any, data: DataRecipe, wanted: Sequence[str], where: str, alone: bool) -> Any:
    """The columns that are wanted, under the template's names, and the labels as `label`, where there are any."""
    have = rows.column_names or list(next(iter(rows), {}))  # a stream of JSON does not know its columns
    unknown = next((name for name in data.columns if name not in wanted), None)
    if unknown is not None:
        place = f"data.columns.{unknown}"
        raise DataError(place, "the template has no such column", fix=did_you_mean(unknown, wanted))
    if data.label is None and not alone:
        raise DataError("data.label", "None, and the mapping learns from labels", "a column of the data")
    taken = {data.columns.get(name, name): name for name in wanted}
    if data.label in taken or len(taken) < len(wanted):
        what = f"{data.columns} and label {data.label!r} name a column twice"
        raise DataError("data.columns", what, "one column of the data for each")
    if data.label in have or not alone:
        taken[data.label] = "label"
    for column, name in taken.items():
        if column not in have:
            what = "no label column" if name == "label" else "no column"
            fix = "data.label: COLUMN" if name == "label" else f"data.columns: {{{name}: COLUMN}}"
            raise DataError(where, f"{what} {column!r}", fix=f"{fix}; {did_you_mean(column, have)}")
    rows = rows.select_columns(list(taken))
    renamed = {column: name for column, name in taken.items() if column != name}
    return rows.rename_columns(renamed) if renamed else rows


def _check_labels(values: Any, names: Sequence[str] | None, labels: Sequence[str] | None, where: str) -> None:
    """Every row has a label, and every label is one of the config's."""
    values = list(values)
    empty = [i for i, v in enumerate(values) if v is None or v != v or v == ""]  # NaN differs from itself
    if empty:
        what = f"{len(empty)} rows have no label (the first is row {empty[0]}: {values[empty[0]]!r})"
        raise DataError(where, what, "a label on every row", "drop them, or name another column in data.label")
    if labels is None:
        return
    kinds = {type(v) for v in values}
    if kinds == {int} and names is None:
        raise DataError(
            where,
            f"labels are integers {sorted(set(values))[:6]}, and nothing says which label each means",
            f"names among {list(labels)}",
            "data.label_names: the names in the order of their ids",
        )
    for name in sorted(set(values) if kinds == {str} else set(names or ())):
        if name not in labels:
            fix = did_you_mean(name, labels) + ("" if kinds == {str} else "; data.label_names gives ids other names")
            raise DataError(where, f"unknown label {name!r}", f"one of {list(labels)}", fix)


def set_aside(rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """(the rest, a seeded part) of rows, each label in both in like shares."""
    from sklearn.model_selection import train_test_split

    if len(rows) < 2:
        raise DataError("data.train", "1 row, of which none can be set aside", "at least two rows")
    labels = list(rows["label"]) if "label" in rows.column_names else [0] * len(rows)
    everything = list(range(len(rows)))
    kept = {"test_size": share, "random_state": seed}
    classes = labels if all(isinstance(label, str | int) for label in labels) else None  # no numbers, no sets
    try:
        rest, part = train_test_split(everything, stratify=classes, **kept)
    except ValueError as error:
        logger.warning("The validation part is drawn without regard to labels: %s", first_line(error))
        rest, part = train_test_split(everything, **kept)
    return rows.select(sorted(rest)), rows.select(sorted(part))
