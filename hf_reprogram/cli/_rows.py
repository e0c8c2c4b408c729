"""What commands on labelled rows share: where they are and how they are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import DataError, ReprogramError


# How errors below speak of a recipe, and how a command line says it.
FLAGS = (
    (r"data\.columns: \{(\w+): COLUMN\}", r"--column \1=COLUMN"),
    (r"data\.columns\.(\w+)", r"--column \1"),
    (r"data\.columns", "--column"),
    (r"data\.label: COLUMN", "--label COLUMN"),
    (r"data\.(label|split|subset|revision)\b", r"--\1"),
    (r"data\.label_names", "--label-names"),
)


@contextmanager
def as_flags(*more: tuple[str, str]) -> Iterator[None]:
    """Errors of the block name flags where they would name fields of a recipe.

    Args:
        more: further (pattern, replacement) pairs, as of `re.sub`.
    """
    try:
        yield
    except ReprogramError as error:
        parts = error.where, error.what, error.expected, error.fix
        for pattern, flag in (*FLAGS, *more):
            parts = tuple(part and re.sub(pattern, flag, part) for part in parts)
        raise type(error)(*parts) from error


def add_columns(parser: argparse.ArgumentParser) -> None:
    """`--label`, `--label-names`, `--column` and what names a part of a dataset on the Hub."""
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column of the labels; default %(default)s")
    parser.add_argument("--label-names", metavar="A,B", help="what integer labels stand for, in the order of ids")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="column of the template")
    parser.add_argument("--split", default="test", help="of a Hub name; default %(default)s")
    parser.add_argument("--subset", help="of a Hub name")
    parser.add_argument("--revision", help="of a Hub name")


def columns_of(options: argparse.Namespace) -> dict[str, str]:
    """`--column` as {column of the template: column of the data}.

    Raises:
        DataError: one without an equals sign.
    """
    columns = dict(pair.partition("=")[::2] for pair in options.column)
    if not all(columns.values()):
        raise DataError("--column", f"{options.column}", "NAME=COLUMN", "--column text=sentence")
    return columns


def data_recipe(options: argparse.Namespace, rows: Sequence[str]) -> Any:
    """The section of a recipe that the arguments are."""
    from ..training.recipe import DataRecipe

    return DataRecipe(
        train=list(rows) if len(rows) > 1 else rows[0],
        split=options.split,
        subset=options.subset,
        revision=options.revision,
        columns=columns_of(options),
        label=options.label,
        label_names=options.label_names.split(",") if options.label_names else None,
    )
