"""Train a program by a recipe: base, data, config and training arguments in one YAML file.

    hf-reprogram train recipe.yaml training.max_steps=20 data.train=my.csv

Over several processes: accelerate launch scripts/train.py recipe.yaml
"""

from __future__ import annotations

import argparse


HELP = "train a program by a recipe"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe and what to change in it."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="see scripts/recipes")
    parser.add_argument("--mapping-search", action="store_true", help="rank mappings on train first, take the best")
    parser.add_argument("overrides", metavar="KEY.SUB=VALUE", nargs="*", help="changes, the value in YAML")


def run(options: argparse.Namespace) -> int:
    """Train; the recipe is read, and its files looked for, before anything heavy is loaded."""
    from .. import presets
    from ..training import recipe, source

    wanted = ["mapping_search=true"] if options.mapping_search else []
    made = recipe.load(options.recipe, [*options.overrides, *wanted])
    source.look_for_files(made.data)
    if made.preset is not None:
        presets.preset(made.preset)
    from ..training import job

    job.run(made)
    return 0
