"""List programs and mappings with their options, and those of the canvas on which sound is laid out."""

from __future__ import annotations

import argparse


HELP = "list programs, mappings and the canvas with their options"


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> int:
    """Print every registered method, its options, their defaults and choices."""
    from ..canvas import CanvasConfig
    from ..registry import KINDS, about, method_class, names

    for kind in KINDS:
        for name in names(kind):
            cls = method_class(kind, name)
            changes = f" (changes {cls.accepts})" if kind == "program" and cls.accepts != "any" else ""
            print(f"{kind} {name}{changes}: {about(kind, name)}")
            _print_options(cls.Options)
    print("canvas (of a base that hears): how a sound or a series is laid out")
    _print_options(CanvasConfig)
    return 0


def _print_options(cls: type) -> None:
    """What a user may set of an options class, with defaults and choices."""
    from ..registry import described

    for line in described(cls):
        print(f"    {line}")
