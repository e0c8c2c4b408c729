"""Judge a saved program on labelled rows; the metrics go to stdout as JSON.

hf-reprogram evaluate out/demo test.jsonl.gz --label-names negative,positive
hf-reprogram evaluate out/sst2 stanfordnlp/sst2 --split validation --column text=sentence
"""

from __future__ import annotations

import argparse

from ._rows import add_columns, as_flags, data_recipe


HELP = "judge a saved program on labelled rows"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The program, the rows, and how to read them."""
    parser.add_argument("program", metavar="PROGRAM", help="a folder made by save_pretrained, or a repo id")
    parser.add_argument("rows", metavar="ROWS", nargs="+", help="json, jsonl, csv, tsv, parquet, also .gz; a Hub name")
    add_columns(parser)
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows in one pass; default %(default)s"
    )


def run(options: argparse.Namespace) -> int:
    """Load, read, judge, print."""
    import json

    from ..auto import AutoReprogramModel
    from ..training import source

    data = data_recipe(options, options.rows)
    model = AutoReprogramModel.from_pretrained(options.program)
    labels = model.label_names() if model.problem_type() == "single_label_classification" else None
    with as_flags():
        rows, names = source.labelled(data, model.columns(), labels, "ROWS")
        found = model.evaluate(rows, batch_size=options.batch_size, features=names)
    print(json.dumps(found))
    return 0
