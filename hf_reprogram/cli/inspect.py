"""Say what a saved program is."""

from __future__ import annotations

import argparse


HELP = "say what a saved program is"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The program."""
    parser.add_argument("program", metavar="PROGRAM", help="a folder made by save_pretrained, or a repo id")


def run(options: argparse.Namespace) -> int:
    """Print the page."""
    from .. import artefact
    from ..wrap import config_of

    folder = artefact.fetch(options.program)
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
