"""The training section: any field of TrainingArguments, checked, and what a run wants beside."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hf_reprogram.errors import ConfigError
from hf_reprogram.training import arguments
from hf_reprogram.training.arguments import checkpoints
from hf_reprogram.training.recipe import Recipe, build


def recipe(folder: Path, **training: Any) -> Recipe:
    values = {
        "name": "r", "base": {"model": "b"}, "data": {"train": "t"}, "preset": "warp", "output": str(folder),
        "training": {"use_cpu": True, **training},
    }  # fmt: skip
    return build(values, "recipe")


def training_arguments(recipe: Recipe, problem_type: str = "single_label_classification") -> Any:
    return arguments.training_arguments(recipe, problem_type)


@pytest.mark.parametrize(
    ("problem_type", "given", "best"),
    [
        ("multi_label_classification", {}, ("micro_f1", True)),
        ("regression", {}, ("mse", False)),
        ("regression", {"metric_for_best_model": "loss"}, ("loss", False)),
    ],
)
def test_the_metric_that_counts(problem_type: str, given: dict[str, Any], best: tuple, tmp_path: Path) -> None:
    made = training_arguments(recipe(tmp_path, **given), problem_type)
    assert (made.metric_for_best_model, made.greater_is_better) == best and made.load_best_model_at_end


def test_what_is_filled_in(tmp_path: Path) -> None:
    made = training_arguments(recipe(tmp_path, per_device_train_batch_size=4))
    assert made.per_device_train_batch_size == 4
    assert (made.eval_strategy, made.save_strategy) == ("epoch", "epoch")
    assert (made.load_best_model_at_end, made.metric_for_best_model, made.greater_is_better) == (
        True,
        "accuracy",
        True,
    )
    assert made.remove_unused_columns is False and made.report_to == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_steps": 10}, ("steps", 3, "steps", 3, True)),  # four times
        ({"eval_steps": 7}, ("steps", 7, "steps", 7, True)),
        ({"eval_strategy": "steps", "eval_steps": 5, "save_steps": 10}, ("steps", 5, "steps", 10, True)),
        ({"eval_strategy": "no"}, ("no", None, "no", 500, False)),
        ({"save_strategy": "no"}, ("no", None, "no", 500, False)),
        ({"eval_strategy": "epoch", "save_strategy": "steps"}, ("epoch", None, "steps", 500, False)),
        ({"load_best_model_at_end": False}, ("epoch", None, "epoch", 500, False)),
    ],
)
def test_evaluation_and_saving_go_together(given: dict[str, Any], expected: tuple, tmp_path: Path) -> None:
    made = training_arguments(recipe(tmp_path, **given))
    found = (made.eval_strategy, made.eval_steps, made.save_strategy, made.save_steps, made.load_best_model_at_end)
    assert found == expected


# The training section, and what the error says.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"learnin_rate": 0.1}, "training.learnin_rate: no such field.*did you mean 'learning_rate'"),
    "a text for a number": ({"learning_rate": "fast"}, "training.learning_rate: 'fast' is a str.*float"),
    "a fraction for a whole number": ({"max_steps": 1.5}, "training.max_steps: 1.5 is a float.*int"),
    "a number for a truth": ({"bf16": 1}, "training.bf16: 1 is a int.*bool"),
    "an unknown strategy": ({"eval_strategy": "often"}, "training: often is not a valid IntervalStrategy"),
    "the folder": ({"output_dir": "x"}, "training.output_dir: 'x'.*the recipe's `output`"),
    "the seed": ({"seed": 1}, "training.seed: 1.*the recipe's `seed`"),
    "dropped columns": ({"remove_unused_columns": True}, "training.remove_unused_columns: True.*always false"),
    "steps that never meet": (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 6},
        "training: .*round multiple",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    given, says = case
    with pytest.raises(ConfigError, match=says):
        training_arguments(recipe(tmp_path, **given))


def test_another_recipe_has_other_checkpoints(tmp_path: Path) -> None:
    """Or a run with another rate would go on from where the first one ended, and say that it was done."""
    one = recipe(tmp_path)
    assert checkpoints(one) == checkpoints(dataclasses.replace(one, cards="elsewhere", resume="never"))
    others = [
        recipe(tmp_path, learning_rate=0.1),
        dataclasses.replace(one, seed=1),
        dataclasses.replace(one, data=dataclasses.replace(one.data, train="u")),
        dataclasses.replace(one, preset="prompt_tuning"),
    ]
    assert len({checkpoints(one), *map(checkpoints, others)}) == 5
