"""What commands on a saved program share: how it is named and loaded."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_program(parser: argparse.ArgumentParser) -> None:
    """`PROGRAM` and `--base MODEL`."""
    parser.add_argument("program", metavar="PROGRAM", help="a folder made by save_pretrained, or a repo id")
    parser.add_argument("--base", metavar="MODEL", help="folder or repo id of its base, where it is not where it was")


def quiet() -> None:
    """Keep transformers' bars from files and pipes: they are for people."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def classifier(options: argparse.Namespace) -> Any:
    """The named program as a `pipeline`, on this machine's accelerator if it has one."""
    from ..pipelines import pipeline

    quiet()
    return pipeline(None, options.program, base_model=options.base)
