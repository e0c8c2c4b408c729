"""The model card of an artefact: complete, without placeholders, its snippet runs."""

from __future__ import annotations

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
    base = config.base_model_name_or_path or "the base it was trained on"
    parts = [
        _front_matter(config),
        f"# A program for {base}",
        f"A *program* of [hf_reprogram](https://pypi.org/project/hf-reprogram): {numbers:,} numbers that "
        f"teach the frozen model `{base}` a new task without touching its weights.",
        _facts(config),
        _usage(config),
        _training(config),
        "## Limits\n\nIt works with exactly this base and tokenizer; loading checks their fingerprints. It inherits "
        "what the base knows and gets wrong. Compare it with a classical model on your own rows before relying on it.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(config: ReprogramConfig) -> str:
    base = config.base_model_name_or_path
    tags = ["reprogramming", "frozen", *(p.type for p in config.programs), config.mapping.type]
    values: dict[str, Any] = {"library_name": "hf_reprogram", "tags": tags}
    # A local folder is no model of the Hub, and the Hub refuses cards that claim one.
    if base and base.count("/") == 1 and not base.startswith((".", "/")):
        values |= {"base_model": base, "tags": [*tags, f"base_model:adapter:{base}"]}
    if config.labels:
        values["pipeline_tag"] = "text-classification"
    return f"---\n{yaml.safe_dump(values, sort_keys=False).strip()}\n---"


def _facts(config: ReprogramConfig) -> str:
    rows = [
        f"| program | `{p.type}` ({method_class('program', p.type).paper or 'control'}) |" for p in config.programs
    ]
    rows += [f"| template | `{config.layout()}` |"] if config.layout() else []
    rows += [f"| mapping | `{config.mapping.type}` |"]
    for label in config.labels or []:
        words = getattr(config.mapping, "words", None)
        shown = ", ".join(f"`{w}`" for w in words[label]) if isinstance(words, dict) else ""
        rows.append(f"| label | {label}{': ' + shown if shown else ''} |")
    return "| | |\n|---|---|\n" + "\n".join(rows)


def _usage(config: ReprogramConfig) -> str:
    names = columns(parse(config.layout() or "{text}"))
    row = (
        '"Stopped working after a week."' if len(names) == 1 else "{" + ", ".join(f'"{n}": "..."' for n in names) + "}"
    )
    call = f"model.predict([{row}])" if config.labels else f"model.generate([{row}], max_new_tokens=8)"
    return (
        "## Use\n\n```python\nimport hf_reprogram as hr\n\n"
        f'model = hr.AutoReprogramModel.from_pretrained("path/or/repo-of-this-card")\nprint({call})\n```'
    )


def _training(config: ReprogramConfig) -> str:
    if not config.training:
        return ""
    rows = "\n".join(f"| {key} | {value} |" for key, value in config.training.items())
    return f"## Training\n\n| | |\n|---|---|\n{rows}"
