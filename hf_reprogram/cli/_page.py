"""The page of `hf-reprogram inspect`: facts in columns, at most 100 wide, without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any


WIDTH = 100
_INDENT = 10


def page(facts: Mapping[str, Any]) -> str:
    """The facts of `inspect` as people read them."""
    sections = [_what(facts), _labels(facts), _base(facts), _training(facts["training"] or {}), _slots(facts)]
    sections += [_tensors(facts), _sums("made for", facts["fingerprint"]), _sums("checksums", facts["checksum"])]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _what(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"{_safe(facts['name'])}: {facts['numbers']:,} numbers on a frozen base", ""]
    for part in facts["program"]:
        lines += _entry("program", _method(part)) + _options(part, ("template",))
    if facts["canvas"]:
        lines += _entry("canvas", facts["canvas"])
    else:
        lines += _entry("template", facts["template"] or "none: rows are not laid out")
    mapping = facts["mapping"]
    lines += _entry("mapping", _method(mapping)) + _options(mapping, ("words",))
    for key, value in mapping.get("state", {}).items():
        if value is not None and key not in mapping["options"]:
            lines += _entry("", f"{key}: {_value(value)}")
    files = ", ".join(f"{name} {size:,}" for name, size in facts["bytes"].items())
    lines += _entry("size", f"{sum(facts['bytes'].values()):,} bytes: {files}")
    return lines


def _method(part: Mapping[str, Any]) -> str:
    return f"{part['type']}: {part['about'].rstrip('.')}"


def _options(part: Mapping[str, Any], shown_elsewhere: tuple[str, ...]) -> list[str]:
    """The options that were chosen, not those left as they are."""
    names = [name for name in part["chosen"] if name not in shown_elsewhere]
    return [line for name in names for line in _entry("", f"{name}: {_value(part['options'][name])}")]


def _labels(facts: Mapping[str, Any]) -> list[str]:
    if not facts["labels"]:
        return _entry("labels", "none: the program goes on writing, or gives the base's own output")
    width = min(max(len(_safe(label)) for label in facts["labels"]), 30)
    lines = []
    for i, label in enumerate(facts["labels"]):
        words = (f"{word!r} {_value(ids)}" for word, ids in facts["words"].get(label, {}).items())
        lines += _entry("" if i else "labels", f"{_safe(label):<{width}}  {', '.join(words)}", width + 2)
    return lines


def _base(facts: Mapping[str, Any]) -> list[str]:
    base = facts["base"]
    about = [base["class"], f"width {base['width']}" if base["width"] else None, base["dtype"]]
    about.append(f"loaded by {base['auto_class']}" if base["auto_class"] else None)
    lines = _entry("base", base["name"] or "it had no name: it was made, not loaded")
    lines += _entry("", ", ".join(part for part in about if part))
    return lines + [line for i, use in enumerate(facts["use"]) for line in _entry("" if i else "use", use)]


def _training(record: Mapping[str, Any]) -> list[str]:
    """The record, and in one table what was reached beside what was to be beaten."""
    if not record:
        return _entry("training", "no record")
    lines = []
    for key, value in record.items():
        if key in ("metrics", "baselines") and isinstance(value, Mapping):
            continue
        lines += _entry("" if lines else "training", f"{key}: {_value(value)}")
    metrics, baselines = record.get("metrics"), record.get("baselines")
    rows = {"this program": metrics} if isinstance(metrics, Mapping) else {}
    if isinstance(baselines, Mapping):
        rows |= {str(k): v if isinstance(v, Mapping) else {"value": v} for k, v in baselines.items()}
    return lines + ([""] if lines and rows else []) + _table("result", rows)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names down, their numbers across."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [["", *columns], *([name, *(_value(row.get(c, "")) for c in columns)] for name, row in rows.items())]
    widths = [max(len(_safe(row[i])) for row in cells) for i in range(len(columns) + 1)]
    made = []
    for row in cells if rows else []:
        line = "  ".join(
            _safe(cell).rjust(width) if i else _safe(cell).ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        made.append(f"{'' if made else title:<{_INDENT}}{line}"[:WIDTH].rstrip())
    return made


def _slots(facts: Mapping[str, Any]) -> list[str]:
    if facts["slots"] is None:
        return _entry("slots", f"left out: {facts['left_out']}. --base MODEL names it: a folder, or a repo id")
    if not facts["slots"]:
        return _said(facts)
    far = any(row["far"] for row in facts["slots"])
    lines = _entry(
        "slots",
        "their nearest tokens, and how far these are in lengths of an average token (95 in 100 tokens have another "
        f"within {facts['slots'][0]['usual']:.2f}); a slot that has hardly moved is near the token it started from"
        + ("; * farther than that: such neighbours mean nothing" * far),
    )
    for row in facts["slots"]:
        near = (
            f"{_cut(repr(token), 19):<19} {distance:>5.2f}"
            for token, distance in zip(row["tokens"], row["distances"], strict=True)
        )
        lines.append(f"{row['slot']:>{_INDENT - 4}} {'*' if row['far'] else ' '}  {'    '.join(near)}".rstrip())
    return lines + _said(facts)


def _said(facts: Mapping[str, Any]) -> list[str]:
    """What programs without slots say of themselves."""
    if not facts.get("facts"):
        return []
    from ..explain import facts_line

    said, name = [facts_line(row) for row in facts["facts"]], "sound" if facts["canvas"] else "tokens"
    return [line for i, text in enumerate(said) for line in _entry("" if i else name, text)]


def _tensors(facts: Mapping[str, Any]) -> list[str]:
    width = max((len(t["name"]) for t in facts["tensors"]), default=0)
    lines = []
    for tensor in facts["tensors"]:
        shape = " x ".join(map(str, tensor["shape"])) or "one"
        lines += _entry("" if lines else "tensors", f"{tensor['name']:<{width}}  {shape:<12} {tensor['dtype']}")
    return lines or _entry("tensors", "none: nothing is learned")


def _sums(title: str, sums: Mapping[str, Any] | None) -> list[str]:
    lines = []
    for key, value in (sums or {}).items():
        if key not in ("class", "width", "dtype"):  # said of the base already
            lines += _entry("" if lines else title, f"{key:<10} {value}", 11)
    return lines


# Text ----------------------------------------------------------------------------------------------------------------


def _entry(name: str, text: str, hang: int = 0) -> list[str]:
    """A name and its text, wrapped to the width; `hang` more columns before the lines that follow."""
    first, rest = f"{name:<{_INDENT}}", " " * (_INDENT + hang)
    wrapped = textwrap.wrap(_safe(text), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return wrapped or [first.rstrip()]


def _value(value: Any) -> str:
    """A value as people write it: `accuracy 0.875, rows 1000` for a dict."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(v)}" for key, v in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(repr(v) if isinstance(v, str) else _value(v) for v in value)
    return str(value)


def _safe(text: Any) -> str:
    """What cannot be printed is written out: a stranger's program must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
