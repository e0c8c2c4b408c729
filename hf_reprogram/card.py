"""The model card of an artefact: complete, without placeholders, its snippet runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from .config import ReprogramConfig
from .registry import method_class
from .template import columns, parse


def model_card(config: ReprogramConfig, tensors: Mapping[str, Tensor]) -> str:
    """The README.md of a saved program.

    Args:
        config: the program's config, resolved.
        tensors: what is saved beside it.
    """
    numbers = sum(t.numel() for t in tensors.values())
    base = " ".join((config.base_model_name_or_path or "").split())
    parts = [
        _front_matter(config),
        f"# A program for {base or 'a frozen base'}",
        f"A *program* of `hf_reprogram`: {numbers:,} numbers that teach the "
        f"frozen model {_code(base) if base else 'it was trained on'} a new task without touching its weights.",
        _facts(config),
        _usage(config),
        _training(config),
        "## Limits\n\nIt works with exactly this base and tokenizer; loading checks their fingerprints. It inherits "
        "what the base knows and gets wrong. Compare it with a classical model on your own rows before relying on it.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# An owner and a name, as the Hub allows them.
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _front_matter(config: ReprogramConfig) -> str:
    base = config.base_model_name_or_path
    tags = ["reprogramming", "frozen", *(p.type for p in config.programs), config.mapping.type]
    values: dict[str, Any] = {"library_name": "hf_reprogram"}
    # A local folder is no model of the Hub, and the Hub refuses cards that claim one.
    if base and _REPO.fullmatch(base) and not os.path.exists(base):
        values["base_model"] = base
        tags.append(f"base_model:adapter:{base}")
    values["tags"] = list(dict.fromkeys(tags))
    if config.labels:
        values["pipeline_tag"] = "text-classification"
    return f"---\n{yaml.safe_dump(values, sort_keys=False).strip()}\n---"


def _cell(text: Any) -> str:
    """Text as one cell of a table: what would end the cell or the row is written out."""
    return str(text).replace("\n", "\\n").replace("|", "\\|")


def _code(text: str) -> str:
    """Text as code: fenced by one backtick more than stand in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _table(rows: list[tuple[Any, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "| | |\n|---|---|\n" + "\n".join(lines)


def _facts(config: ReprogramConfig) -> str:
    rows: list[tuple[Any, Any]] = [
        ("program", f"`{p.type}` ({method_class('program', p.type).paper or 'control'})") for p in config.programs
    ]
    rows += [("template", _code(config.layout()))] if config.layout() else []
    rows += [("mapping", f"`{config.mapping.type}`")]
    for label in config.labels or []:
        words = getattr(config.mapping, "words", None)
        shown = ", ".join(_code(w) for w in words[label]) if isinstance(words, dict) else ""
        rows.append(("label", f"{label}{': ' + shown if shown else ''}"))
    return _table(rows)


def _usage(config: ReprogramConfig) -> str:
    names = columns(parse(config.layout() or "{text}"))
    text = '"Stopped working after a week."'
    row = "{" + ", ".join(f'"{n}": {text}' for n in names) + "}"
    if config.labels:
        call = f"print(model.predict([{text if len(names) == 1 else row}]))"
    elif config.base_auto_class == "AutoModelForMaskedLM":  # writes no text: its logits are what there is
        call = f"columns = model.collator()([{row}])\nprint(model(**columns).logits.shape)"
    else:
        call = f"print(model.generate([{row}], max_new_tokens=8))"
    # What the base was called is not known of one that was made, not loaded: then it must be given.
    given = "" if config.base_model_name_or_path else ", base_model=base, processing_class=tokenizer"
    return (
        "## Use\n\n```python\nimport hf_reprogram as hr\n\n"
        f'model = hr.AutoReprogramModel.from_pretrained("path/or/repo-of-this-card"{given})\n{call}\n```'
    )


def _training(config: ReprogramConfig) -> str:
    rows = [(name, _plain(value)) for name, value in (config.training or {}).items()]
    return f"## Training\n\n{_table(rows)}" if rows else ""


def _plain(value: Any) -> str:
    """A value of the record as people write it: `accuracy 0.875, rows 1000` for a dict."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)
