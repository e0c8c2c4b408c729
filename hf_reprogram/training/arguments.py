"""The `training` section of a recipe as TrainingArguments, with what a run wants where the recipe says nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from transformers import TrainingArguments

from ..errors import ConfigError, did_you_mean, first_line
from ..metrics import BEST
from ..registry import misfit
from .recipe import Recipe


# What the recipe says elsewhere, or what rows that are still text do not allow.
_ELSEWHERE = {
    "output_dir": "the recipe's `output`",
    "seed": "the recipe's `seed`",
    "data_seed": "the recipe's `seed`",
    "remove_unused_columns": "always false: rows are text until the collator lays them out",
    "resume_from_checkpoint": "the recipe's `resume`",
}
_EVERY = ("eval_strategy", "eval_steps", "save_strategy", "save_steps")
EVALUATIONS = 4  # of a run that is measured in steps


def training_arguments(recipe: Recipe, problem_type: str) -> TrainingArguments:
    """Arguments of a recipe's run for a problem type. Of the recipe's own it changes none.

    Filled in: evaluation and a checkpoint at the end of every epoch (four times in a run of `max_steps`), in the end
    the checkpoint of the best accuracy (micro F1, mean squared error), the first step's loss in the log, two
    checkpoints kept, no reports to elsewhere.

    Raises:
        ConfigError: an argument that TrainingArguments does not have, of a wrong type, or that the recipe says
            elsewhere; what TrainingArguments itself refuses.
    """
    given = recipe.training
    known = {f.name: f for f in dataclasses.fields(TrainingArguments) if f.init}
    hints = get_type_hints(TrainingArguments)
    for name, value in given.items():
        where = f"training.{name}"
        if name in _ELSEWHERE:
            raise ConfigError(where, f"{value!r}", _ELSEWHERE[name])
        if name not in known:
            raise ConfigError(where, "no such field of TrainingArguments", fix=did_you_mean(name, known))
        _check(value, hints[name], where)
    filled = {
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": "none",
        "save_total_limit": 2,
        "dataloader_pin_memory": torch.cuda.is_available() and not given.get("use_cpu"),  # else torch warns
        **_strategies(given),
        **given,
    }
    if filled["eval_strategy"] == filled["save_strategy"] != "no":
        metric, greater = BEST[problem_type]
        best = {"metric_for_best_model": metric, "greater_is_better": greater}
        filled = {"load_best_model_at_end": True, **({} if best.keys() & given.keys() else best), **filled}
    own = {"output_dir": str(checkpoints(recipe)), "seed": recipe.seed, "remove_unused_columns": False}
    try:
        return TrainingArguments(**filled, **own)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise ConfigError("training", first_line(error), "what TrainingArguments takes") from error


def _check(value: Any, hint: Any, where: str) -> None:
    """Type of a plain argument; what has richer types (strategies, plugins), TrainingArguments checks itself."""
    parts = set(get_args(hint) or (hint,))
    if parts <= {bool, int, float, str, NoneType} and misfit(value, hint, where):
        kinds = " or ".join(sorted(p.__name__ for p in parts - {NoneType}))
        raise ConfigError(where, f"{value!r} is a {type(value).__name__}", kinds)


def _strategies(given: dict[str, Any]) -> dict[str, Any]:
    """When to evaluate and to save: both at once, so that the best checkpoint is one of those that were judged."""
    steps = given.get("max_steps", -1)
    if not any(name in given for name in _EVERY):
        if steps <= 0:
            return {"eval_strategy": "epoch", "save_strategy": "epoch"}
        every = math.ceil(steps / EVALUATIONS)
        return {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": every, "save_steps": every}
    strategy = given.get("eval_strategy", "steps" if "eval_steps" in given else given.get("save_strategy", "epoch"))
    filled = {"eval_strategy": strategy, "save_strategy": given.get("save_strategy", strategy)}
    if "eval_steps" in given and filled["save_strategy"] == "steps":
        filled["save_steps"] = given["eval_steps"]
    return filled


def checkpoints(recipe: Recipe) -> Path:
    """Folder of the checkpoints of exactly this recipe: another base, data, config or argument is another folder, so
    that nothing is resumed that was begun otherwise."""
    values = dataclasses.asdict(recipe)
    decisive = {k: values[k] for k in ("base", "data", "config", "preset", "options", "training", "seed")}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()
    return Path(recipe.output) / "checkpoints" / digest[:12]
