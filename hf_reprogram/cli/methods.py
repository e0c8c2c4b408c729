"""List programs and mappings with their options."""

from __future__ import annotations

import argparse
import dataclasses


HELP = "list programs and mappings with their options"


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> int:
    """Print every registered method, its options, their defaults and choices."""
    from ..registry import KINDS, about, method_class, names

    for kind in KINDS:
        for name in names(kind):
            cls = method_class(kind, name)
            changes = f" (changes {cls.accepts})" if kind == "program" and cls.accepts != "any" else ""
            print(f"{kind} {name}{changes}: {about(kind, name)}")
            for f in dataclasses.fields(cls.Options):
                if not f.metadata.get("help", "Filled in").startswith("Filled in"):
                    choices = f" [{', '.join(map(str, f.metadata['choices']))}]" if f.metadata["choices"] else ""
                    default = "" if f.default is dataclasses.MISSING else f" = {f.default!r}"
                    print(f"    {f.name}: {f.type}{default}{choices}  {f.metadata['help']}")
    return 0
