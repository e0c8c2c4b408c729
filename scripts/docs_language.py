"""What the README says of a thousand rows on a frozen encoder, from the results of language.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docs_series import spanned


TASKS = {"trec": "TREC", "mpqa": "MPQA", "sst2": "SST-2", "mr": "MR", "ag_news_10k": "AG News"}
METHODS = {
    "ours": "ours: the best of these on the validation rows, the probe among them",
    "ours:prompt": "five vectors before the words (`prompt`)",
    "ours:embedding": "a map of the words of rank 4 (`embedding`)",
    "ours:both": "both",
    "ours:mean of the three": "the mean of what the three say",
    "probe": "linear probe of the same states, no program",
    "peft_prompt_tuning": "PEFT prompt tuning, five tokens, best of 3 rates",
    "lora": "LoRA of rank 2, best of 2 rates",
    "classical:same rows": "TF-IDF + logistic regression",
    "random_source:ours": "both on a MiniLM of random weights",
    "random_source:probe": "probe of a MiniLM of random weights",
    "majority": "always the commonest label",
}
OTHERS = {"peft_prompt_tuning": "PEFT prompt tuning", "lora": "LoRA", "classical:same rows": "TF-IDF"}


def language(found: dict[str, Any] | None, further: Sequence[dict[str, Any]] = ()) -> str:
    """Accuracy of every method by task, what a program adds to the probe, what is better than ours.

    Args:
        further: runs of one task on other draws.
    """
    if found is None:
        return "Not measured yet."
    rows = {(r["task"], r["method"], r["metric"]): r for r in found["rows"]}
    tasks = [task for task in TASKS if (task, "ours", "accuracy") in rows]
    lines = grid("accuracy; 1,000 labelled rows", rows, {task: TASKS[task] for task in tasks}, METHODS)
    lines.append("")
    for task in tasks:
        gain = rows[task, "ours", "accuracy_gain_over:probe"]
        told = [f"{TASKS[task]}, {gain['n']} seeds: {spanned(gain)} over the probe"]
        beside = {text: rows.get((task, "ours", f"accuracy_gain_over:{m}")) for m, text in OTHERS.items()}
        told += [f"{spanned(row)} over {text}" for text, row in beside.items() if row]
        lines.append(f"- {'; '.join(told)}.")
    mean = rows["mean of the tasks", "ours", "accuracy_gain_over:probe"]
    missing = [TASKS[task] for task in found["settings"]["tasks"] if task not in tasks]
    lines.append(f"- Mean gain over the probe: {mean['value']:+.1f} ({len(tasks)} tasks).")
    missing += [text for m, text in METHODS.items() if not any((task, m, "accuracy") in rows for task in tasks)]
    lines += [f"- Planned and not measured yet: {', '.join(missing)}."] if missing else []
    lines += [_further(each) for each in further]
    runs = "; ".join(f"`{each['command']}` at {each['commit'][:12]}" for each in (found, *further))
    return "\n".join([*lines, "", f"{runs}."])


def _further(found: dict[str, Any]) -> str:
    """What other draws of one task say of the choice and of the mean of the three."""
    rows = {(r["method"], r["metric"]): r for r in found["rows"] if r["task"] in TASKS}
    gains = {method: rows[method, "accuracy_gain_over:probe"] for method in ("ours", "ours:mean of the three")}
    (task,) = {r["task"] for r in rows.values()}
    ours, mean = (spanned(gain) for gain in gains.values())
    return (
        f"- {TASKS[task]}, {gains['ours']['n']} further draws, after which nothing was chosen: {ours} over the probe, "
        f"and {mean} by the mean of the three."
    )


def grid(head: str, rows: dict[Any, dict[str, Any]], tasks: dict[str, str], methods: dict[str, str]) -> list[str]:
    """Accuracy of every method that has any, by task, as lines of a table."""
    lines = [f"| {head} | {' | '.join(tasks.values())} |", "|---|" + "--:|" * len(tasks)]
    for method, text in methods.items():
        cells = [rows.get((task, method, "accuracy")) for task in tasks]
        if any(cells):
            lines.append(f"| {text} | {' | '.join(map(_value, cells))} |")
    return lines


def _value(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.1f}" if row else ""
