"""The command `hf-reprogram`. Help and arguments load no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .errors import ReprogramError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hf-reprogram", description="Reprogram frozen pre-trained models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="say what a saved program is")
    inspect.add_argument("program", help="a folder made by save_pretrained, or a repo id")
    commands.add_parser("methods", help="list programs and mappings with their options")
    given = parser.parse_args(arguments)
    try:
        return _inspect(given.program) if given.command == "inspect" else _methods()
    except ReprogramError as error:
        print(f"hf-reprogram: {error}", file=sys.stderr)
        return 2


def _inspect(program: str) -> int:
    from . import artefact
    from .wrap import config_of

    folder = artefact.fetch(program)
    sealed, tensors = artefact.load(folder)
    config = config_of(sealed, folder)
    print(
        f"program   {' + '.join(p.type for p in config.programs)}\n"
        f"mapping   {config.mapping.type}\nlabels    {config.labels}"
    )
    print(f"template  {config.layout()}\nbase      {config.base_model_name_or_path} ({config.base_auto_class})")
    print(f"numbers   {sum(t.numel() for t in tensors.values()):,}")
    for name, tensor in sorted(tensors.items()):
        print(f"  {name:<24} {str(tuple(tensor.shape)):<16} {tensor.dtype}")
    for key, value in (config.fingerprint or {}).items():
        print(f"  {key:<12} {value}")
    return 0


def _methods() -> int:
    import dataclasses

    from .registry import KINDS, method_class, names

    for kind in KINDS:
        for name in names(kind):
            cls = method_class(kind, name)
            print(f"{kind} {name}: {cls.__doc__.strip().splitlines()[0]}")
            for f in dataclasses.fields(cls.Options):
                if "help" in f.metadata:
                    choices = f" [{', '.join(map(str, f.metadata['choices']))}]" if f.metadata["choices"] else ""
                    default = "" if f.default is dataclasses.MISSING else f" = {f.default!r}"
                    print(f"    {f.name}: {f.type}{default}{choices}  {f.metadata['help']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
