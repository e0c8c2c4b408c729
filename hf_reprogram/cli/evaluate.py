"""Judge a saved program on labelled rows; the metrics go to stdout as JSON.

hf-reprogram evaluate out/demo test.jsonl.gz --label-names negative,positive
hf-reprogram evaluate out/sst2 stanfordnlp/sst2 --split validation --column text=sentence
"""

from __future__ import annotations

import argparse


HELP = "judge a saved program on labelled rows"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The program, the rows, and how to read them."""
    parser.add_argument("program", metavar="PROGRAM", help="a folder made by save_pretrained, or a repo id")
    parser.add_argument("rows", metavar="ROWS", nargs="+", help="json, jsonl, csv, tsv, parquet, also .gz; a Hub name")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column of the labels")
    parser.add_argument("--label-names", metavar="A,B", help="what integer labels stand for, in the order of ids")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="column of the template")
    parser.add_argument("--split", default="test", help="of a Hub name")
    parser.add_argument("--subset", help="of a Hub name")
    parser.add_argument("--revision", help="of a Hub name")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows in one pass")


def run(options: argparse.Namespace) -> int:
    """Load, read, judge, print."""
    import json

    from ..auto import AutoReprogramModel
    from ..errors import DataError
    from ..training import source
    from ..training.recipe import DataRecipe

    columns = dict(pair.partition("=")[::2] for pair in options.column)
    if not all(columns.values()):
        raise DataError("--column", f"{options.column}", "NAME=COLUMN", "--column text=sentence")
    data = DataRecipe(
        train=options.rows if len(options.rows) > 1 else options.rows[0],
        split=options.split,
        subset=options.subset,
        revision=options.revision,
        columns=columns,
        label=options.label,
        label_names=options.label_names.split(",") if options.label_names else None,
    )
    model = AutoReprogramModel.from_pretrained(options.program)
    labels = model.label_names() if model.problem_type() == "single_label_classification" else None
    rows, names = source.labelled(data, model.columns(), labels, "ROWS")
    print(json.dumps(model.evaluate(rows, batch_size=options.batch_size, features=names)))
    return 0
