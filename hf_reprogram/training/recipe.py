"""Recipes: base, data, config and training arguments of one run, read strictly from YAML.

Nothing here loads torch: a recipe that cannot be meant is refused at once.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ..errors import ConfigError, did_you_mean
from ..registry import misfit


@dataclass(frozen=True)
class BaseRecipe:
    """The base: a folder or a Hub name; `dtype` as `float32`, None for its own; `revision` on the Hub; `auto_class`
    where the base's own config names a class that is not meant (facebook/bart-base); `layers`, if only its first ones
    are to be loaded."""

    model: str
    dtype: str | None = None
    revision: str | None = None
    auto_class: str | None = None
    layers: int | None = None


@dataclass(frozen=True)
class DataRecipe:
    """Labelled rows.

    Args:
        train: a file, several, or a pattern (json, jsonl, csv, tsv, parquet, each also .gz); a folder that has one of
            sounds for every label, whose names are the labels where the config has none; or a Hub name.
        validation: likewise. None takes `validation_share` of train, seeded and stratified.
        split, validation_split: of a Hub name, in datasets' words (`train[:1000]`). `validation_split` without
            `validation` is a split of the same dataset as train.
        subset, revision: of a Hub name.
        columns: column of the template: column of the data.
        label: column of the labels: names, or ids of `label_names` or of the dataset's own names. None where rows have
            none, of a mapping whose texts teach themselves.
        label_names: names of integer labels, in the order of their ids.
        streaming: read train as it is used, never wholly; needs `training.max_steps` and a validation.
        validation_share: of train.
    """

    train: str | list[str]
    validation: str | list[str] | None = None
    split: str = "train"
    validation_split: str | None = None
    subset: str | None = None
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    label: str | None = "label"
    label_names: list[str] | None = None
    streaming: bool = False
    validation_share: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """One run.

    Args:
        name: of the run, its card and its record; the file's name where it is not given.
        base, data: the sections.
        config: fields of `ReprogramConfig`; or `preset`, its name, with `options`, its `labels` and changes.
        training: fields of `TrainingArguments`.
        mapping_search: put in the place of the config's mapping the one that cross-validation on the rows to learn
            from finds best, the config's own among those that are tried; the program is as it starts.
        seed: of the program's start, the order of rows and the validation split.
        output: folder of the artefact; checkpoints lie under it.
        cards: folder of the card NAME.md.
        resume: `auto` goes on from the last whole checkpoint of this very recipe, `never` starts anew.
    """

    name: str
    base: BaseRecipe
    data: DataRecipe
    output: str
    config: dict[str, Any] | None = None
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    mapping_search: bool = False
    seed: int = 0
    cards: str = "model_cards"
    resume: str = "auto"


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its YAML file.

    Paths in it are relative to the file's folder, those in overrides to the current one; `~` and `$NAME` are expanded.

    Args:
        path: of the file.
        overrides: `key.sub=value` each, the value in YAML.

    Raises:
        ConfigError: no such file, no YAML, unknown keys, wrong types, missing or contradicting ones.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        others = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(str(path), "is no file", "a recipe in YAML", did_you_mean(path.name, others))
    values = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ConfigError(str(path), f"is a {type(values).__name__}", "keys and values: base, data, config, output")
    folder = path.resolve().parent
    values = {"name": path.stem, "cards": Recipe.cards, **values}
    _locate(values, folder)
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise ConfigError(override, "is no override", "key.sub=value", "training.max_steps=3")
        _set(values, key, text)
    _read_words(values, Path())
    return build(values, str(path))


def build(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain values, checked."""
    sections = {key: values[key] for key in ("base", "data") if key in values}
    made = _section(Recipe, values, "", where, skip=sections)
    for key, cls in (("base", BaseRecipe), ("data", DataRecipe)):
        if not isinstance(made[key], dict):
            raise ConfigError(key, f"{made[key]!r}", f"keys and values: {_names(cls)}")
        made[key] = cls(**_section(cls, made[key], f"{key}.", where))
    recipe = Recipe(**made)
    if (recipe.config is None) == (recipe.preset is None):
        what = "neither is given" if recipe.config is None else "both are given"
        raise ConfigError("config, preset", what, "one of them")
    if recipe.options and recipe.preset is None:
        raise ConfigError("options", "given without a preset", "preset: NAME", "options of parts stand in config")
    if recipe.resume not in ("auto", "never"):
        raise ConfigError("resume", f"{recipe.resume!r}", fix=did_you_mean(recipe.resume, ("auto", "never")))
    if not re.fullmatch(r"[\w.-]+", recipe.name):
        raise ConfigError("name", f"{recipe.name!r}", "a name that a file can have: letters, digits, _ . -")
    if not 0 < recipe.data.validation_share < 1:
        raise ConfigError("data.validation_share", f"{recipe.data.validation_share}", "a share between 0 and 1")
    if recipe.data.streaming and recipe.mapping_search:
        raise ConfigError("mapping_search", "true, and data.train streams: no folds can be made of it", "false")
    if recipe.data.streaming:
        _check_stream(recipe)
    return recipe


def _check_stream(recipe: Recipe) -> None:
    if recipe.data.validation is None and recipe.data.validation_split is None:
        raise ConfigError(
            "data.validation", "None, and train streams: no part of it can be set aside", "a file, or a Hub split"
        )
    steps = recipe.training.get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            "training.max_steps", f"{steps}, and data.train streams without a length", "a number of steps"
        )


def _names(cls: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(cls))


def _section(
    cls: type, values: dict[str, Any], prefix: str, where: str, skip: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The values of a section, each of them known and of its type; none that must be there is missing."""
    hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{prefix}{key}", f"no such key in {where}", fix=did_you_mean(key, fields))
        wrong = None if key in (skip or {}) else misfit(value, hints[key], f"{prefix}{key}")
        if wrong is not None:
            place, part, expected = wrong
            kind = expected.__name__ if type(expected) is type else str(expected)
            raise ConfigError(place, f"{part!r} is a {type(part).__name__}", kind)
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name}", f"missing in {where}", f"this one of the keys {_names(cls)}")
    return dict(values)


# Overrides and places -----------------------------------------------------------------------------------------------


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Set `key.sub` to a value written in YAML."""
    *sections, last = key.split(".")
    at = values
    for name in sections:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise ConfigError(key, f"{name!r} is {at!r}, which has no keys", "key.sub=value")
    try:
        at[last] = read_yaml(text, key)
    except ConfigError:
        at[last] = text  # "{prompt:5} {text}{answer}" is a text that only looks like YAML
    own: dict[str, Any] = {last: at[last]}
    for name in reversed(sections):
        own = {name: own}
    _locate(own, Path.cwd())
    for name in sections:
        own = own[name]
    at[last] = own[last]


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def _locate(values: dict[str, Any], folder: Path) -> None:
    """Make the paths of a recipe absolute, in place; Hub names stay as they are."""
    for section, key in (("base", "model"), ("data", "train"), ("data", "validation")):
        part = values.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str | list):
            given = part[key]
            where = f"{section}.{key}"
            part[key] = (
                _place(given, folder, where)
                if isinstance(given, str)
                else [_place(g, folder, where) if isinstance(g, str) else g for g in given]
            )
    for key in ("output", "cards"):
        if isinstance(values.get(key), str):
            values[key] = os.path.normpath(folder / expand(values[key], key))
    _read_words(values, folder)


def _read_words(values: dict[str, Any], folder: Path) -> None:
    """Put the words of a file, JSON or YAML, in the place of its name: a config holds them itself."""
    config = values.get("config")
    mapping = config.get("mapping") if isinstance(config, dict) else None
    if isinstance(mapping, dict) and isinstance(mapping.get("words"), str):
        where = "config.mapping.words"
        file = folder / expand(mapping["words"], where)
        if not file.is_file():
            what = "words of each label, or the name of a JSON or YAML file of them"
            raise ConfigError(where, f"{str(file)!r} is no file", what)
        mapping["words"] = read_yaml(file.read_text(encoding="utf-8"), str(file))


def _place(value: str, folder: Path, where: str) -> str:
    value = expand(value, where)
    plain = value.removesuffix(".gz")
    is_path = value.startswith((".", "/")) or plain.endswith(SUFFIXES) or (folder / value).exists()
    return os.path.normpath(folder / value) if is_path else value


def expand(value: str, where: str) -> str:
    """A path with `~` and `$NAME` filled in.

    Raises:
        ConfigError: a variable that is not set.
    """
    made = os.path.expandvars(os.path.expanduser(value))
    left = re.search(r"\$(\w+|\{[^}]*\})", made)
    if left:
        raise ConfigError(where, f"{left[0]} in {value!r} is not set", "a variable of the environment")
    return made


# YAML ---------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML as it is meant today: PyYAML's own reader takes `no` for false (a label!), 1e-3 for a text and 010 for 8,
    and of a key that stands twice it silently keeps the last."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_yaml(text: str, where: str) -> Any:
    """Values from YAML.

    Raises:
        ConfigError: no YAML, or a key that stands twice; names the line.

    Example:

        >>> read_yaml("{no: [1e-3, 010], yes: on}", "recipe")
        {'no': [0.001, 10], 'yes': 'on'}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = f"is no YAML ({getattr(error, 'problem', None) or error})"
        raise ConfigError(
            f"{where}{line}", why, "keys once each; quotes round text with a colon or a brace"
        ) from error
