"""Presets: named configs after papers, one JSON file each, with a place for the user's labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..registry import build


_FOLDER = Path(__file__).parent
# What a file says where the user's labels belong: their words, or their names.
WORDS, LABELS = "LABEL WORDS", "LABELS"


def names() -> list[str]:
    """Every preset, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def preset(name: str) -> dict[str, Any]:
    """What a preset's file says: `paper`, `about`, `config`.

    Raises:
        ConfigError: no such preset.
    """
    if name not in names():
        raise ConfigError("from_preset", f"unknown preset {name!r}", fix=did_you_mean(name, names()))
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def takes_labels(name: str) -> bool:
    """Whether a preset has a place for labels; else the base's own output reads it."""
    return any(place in json.dumps(preset(name)["config"]) for place in (WORDS, LABELS))


def config_values(
    name: str,
    labels: Sequence[str] | Mapping[str, list[str]] | None,
    changes: Mapping[str, Any],
    known: Collection[str],
) -> dict[str, Any]:
    """Fields of a ReprogramConfig from a preset.

    Args:
        name: of the preset.
        labels: names of the target labels, or their words: `{"negative": [" terrible"], ...}`. A name alone is its own
            word, after a space. None of a preset that the base's own output reads.
        changes: fields of the config, or of one of its parts' options.
        known: fields of a ReprogramConfig.
    """
    values, takes, changes = preset(name)["config"], takes_labels(name), dict(changes)
    first = values["program"] if isinstance(values["program"], dict) else {}
    if labels is None and first.get("symbols") == LABELS and "symbols" in changes:
        labels = list(changes.pop("symbols"))  # this preset's labels are its symbols
    if takes and (not labels or isinstance(labels, str)):
        of_symbols = first.get("symbols") == LABELS
        expected = 'symbols="ACGT", or a list: its labels' if of_symbols else "names of the labels, or words of each"
        fix = did_you_mean(next(iter(changes)), ["symbols", *known]) if of_symbols and changes else None
        raise ConfigError(f"from_preset({name!r})", f"labels={labels!r}", expected, fix)
    if labels and not takes:
        raise ConfigError(f"from_preset({name!r})", f"labels={labels!r}", "None: the base's own output reads it")
    words = dict(labels) if isinstance(labels, Mapping) else {label: [f" {label}"] for label in labels or ()}
    values = _filled(values, {WORDS: words, LABELS: list(words)})
    parts = [*(values["program"] if isinstance(values["program"], list) else [values["program"]]), values["mapping"]]
    kinds = [*["program"] * (len(parts) - 1), "mapping"]
    options = [
        {f.name for f in dataclasses.fields(build(kind, part, name)) if f.init}
        for kind, part in zip(kinds, parts, strict=True)
    ]
    for field, value in changes.items():
        if field in known:
            values[field] = value
            continue
        owners = [part for part, names in zip(parts, options, strict=True) if field in names]
        if not owners:
            fix = did_you_mean(field, {*known, *(n for each in options for n in each)})
            raise ConfigError(f"from_preset({name!r}).{field}", "no such option", fix=fix)
        said = [part for part in owners if field in part]  # of several that have it, the one that the preset gives it
        (said or owners)[0][field] = value
    return values


def _filled(value: Any, given: Mapping[str, Any]) -> Any:
    """A preset's values with the labels in their places."""
    if isinstance(value, dict):
        return {key: _filled(each, given) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, given) for each in value]
    return given.get(value, value) if isinstance(value, str) else value
