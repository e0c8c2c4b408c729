"""Rank frozen models for a task from a sample of its labelled rows, before anything is trained.

hf-reprogram select --models FOLDER OTHER --data rows.jsonl
hf-reprogram select --models org/a org/b --data train.csv --column text=sentence --html models.html
"""

from __future__ import annotations

import argparse

from ._rows import add_columns, as_flags, columns_of, data_recipe


HELP = "rank frozen models for labelled rows, before training"
# How `select` speaks of its arguments, and how a command line says it.
FLAGS = (
    (r"select\(rows\)", "--data"),
    (r"select\((count|gradients)\)", r"--\1"),
    (r"features=\[\.\.\.\]", "--label-names A,B"),
    (r"base\.model\b", "--models"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The models, the rows, what is looked at, and where the report goes."""
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="folders or repo ids")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="ROWS", help="files, a folder of sounds, a Hub name"
    )
    add_columns(parser)
    parser.set_defaults(split="train")
    parser.add_argument("--template", help="of a text; the text alone, and an answer slot where the model answers")
    parser.add_argument(
        "--count", type=int, default=256, metavar="N", help="rows that are looked at; default %(default)s"
    )
    parser.add_argument(
        "--gradients",
        type=int,
        default=32,
        metavar="N",
        help="of them for the gradients; 0: none; default %(default)s",
    )
    parser.add_argument(
        "--random-seeds",
        type=int,
        default=3,
        metavar="N",
        help="seeds of random weights beside; 0: none; default %(default)s",
    )
    parser.add_argument("--source-data", nargs="+", metavar="ROWS", help="rows of what the models were made for")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default %(default)s")
    for kind in ("json", "markdown", "html"):
        parser.add_argument(f"--{kind}", metavar="FILE", help=f"write the report as {kind} too")


def run(options: argparse.Namespace) -> int:
    """Read the rows, look at the models, print the table, write the files; 1 where no model could be read."""
    from dataclasses import replace
    from pathlib import Path

    from ..errors import UsageError
    from ..template import columns, parse
    from ..tools.select import select
    from ..training import source
    from ._program import quiet

    files = {kind: Path(path) for kind in ("json", "markdown", "html") if (path := getattr(options, kind))}
    lost = next((path for path in files.values() if not path.absolute().parent.is_dir()), None)
    if lost is not None:  # said before an hour of looking
        where = f"--{next(kind for kind, path in files.items() if path is lost)}"
        raise UsageError(where, f"{lost}", "a file in a folder that is there")
    quiet()
    data = data_recipe(options, options.data)
    heard = source.folder_labels(data) is not None
    given = columns_of(options)
    named = next((name for name in ("audio", "series") if name in given), "audio" if heard else None)
    wanted = [named] if named else columns(parse(options.template or "{text}"))
    with as_flags(*FLAGS):
        rows, names = source.labelled(data, wanted, None, "--data")
        others = None
        if options.source_data:
            plain = replace(data_recipe(options, options.source_data), label=options.label, label_names=None)
            others, _ = source.labelled(plain, wanted, None, "--source-data", alone=True)
        found = select(
            options.models, rows, template=options.template, count=options.count, gradients=options.gradients,
            random_seeds=range(options.random_seeds), source_rows=others, features=names, seed=options.seed,
        )  # fmt: skip
    found.show()
    for kind, path in files.items():
        path.write_text(getattr(found, kind)(), encoding="utf-8")
    return 0 if found.entries else 1
