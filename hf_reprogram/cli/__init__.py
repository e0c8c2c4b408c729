"""The command `hf-reprogram`. Every file here is one of its commands, found by its name, and states

- `HELP`: one line for the list of commands;
- `arguments(parser)`: adds its arguments to an `argparse` parser;
- `run(options) -> int`: does it, and gives the exit status.

All files are imported for the help, so that none of them imports torch before `run`. What we raise as a
`ReprogramError` ends as one line on stderr and status 2.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from logging import ERROR, getLogger
from typing import Any

from .. import __version__
from ..errors import ReprogramError


STOPPED, PIPE_CLOSED = 130, 141  # what a shell reports of a program that SIGINT or SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    getLogger("bitsandbytes").setLevel(ERROR)  # on some CPUs it misses a kernel, and says so when it is imported
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except ReprogramError as error:
        print(f"hf-reprogram: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:  # the reader has had enough (`| head`)
        # Python flushes stdout once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def commands() -> list[str]:
    """Names of all commands, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


class _Mixed(argparse.ArgumentParser):
    """Options may stand between a command's other arguments: argparse would take the second of these for missing."""

    mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse calls it for a command; its own way of mixing calls it once more."""
        if self.mixing:
            return super().parse_known_args(args, namespace)
        self.mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixing = False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-reprogram", description="Reprogram frozen pre-trained models.")
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Mixed)
    for name in commands():
        command = import_module(f"{__name__}.{name}")
        own = parsers.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(own)
        own.set_defaults(run=command.run)
    return parser
