"""How sure a number is: spread over draws, and differences on the same rows with their intervals (M§D.5).

What every comparison starts from is which test rows a method got right in which draw:

    right = {"ours": {0: marks, 1: marks}, "probe": {0: marks, 1: marks}}      # draw -> (rows,) of 0 and 1
    rows = [*accuracies(task, right), *gains(task, right)]
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from benchmarks.report import Row


Right = Mapping[str, Mapping[int, np.ndarray]]  # method -> draw -> (rows,) 1 where it was right
DRAW = ", draw "


def kept(task: str, draw: int, method: str, right: Sequence[bool], note: str = "") -> Row:
    """A method's accuracy in one draw as a row of a cell; its note holds what `collected` wants back.

    Args:
        task: the task without its draw.
        draw: its number.
        method: name.
        right: row by row, whether the guess is right.
        note: what else is to be said, no digits 0 and 1 in a row of their own.
    """
    marks = "".join("1" if r else "0" for r in right)
    value = 100 * sum(right) / len(right)
    return Row(f"{task}{DRAW}{draw}", method, "accuracy", value, n=len(right), note=f"{marks} {note}".strip())


def collected(rows: Iterable[Row]) -> dict[str, dict[str, dict[int, np.ndarray]]]:
    """What `kept` has kept: task -> method -> draw -> marks, in the order of the rows."""
    found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for row in rows:
        task, draw = re.fullmatch(rf"(.*){DRAW}(\d+)", row.task).groups()
        marks = np.array([mark == "1" for mark in row.note.split()[0]], dtype=float)
        found.setdefault(task, {}).setdefault(row.method, {})[int(draw)] = marks
    return found


def accuracies(task: str, right: Right) -> list[Row]:
    """Mean accuracy of every method, best first; low and high are the worst and the best draw."""
    rows = []
    for method, draws in right.items():
        values = [100 * marks.mean() for _, marks in sorted(draws.items())]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ", ".join(f"{value:.1f}" for value in values)
        note = f"sd {spread:.1f}; draws {each}"
        rows.append(Row(task, method, "accuracy", float(np.mean(values)), min(values), max(values), len(values), note))
    return sorted(rows, key=lambda row: -row.value)


def gains(task: str, right: Right, ours: str = "ours") -> list[Row]:
    """What `ours` gains over every other method, on the draws that both have, largest first."""
    rows = []
    for method in (m for m in right if m != ours):
        both = sorted(set(right[ours]) & set(right[method]))
        if both:
            found = bootstrap(np.stack([right[ours][draw] - right[method][draw] for draw in both]))
            note = "95 % paired bootstrap over draws and test rows"
            rows.append(Row(task, ours, f"accuracy_gain_over:{method}", *found, len(both), note))
    return sorted(rows, key=lambda row: -row.value)


def bootstrap(differences: np.ndarray, times: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % interval, in points, of (draws, rows) differences: draws resampled, then rows."""
    generator = np.random.default_rng(seed)
    draws, rows = differences.shape
    means = np.empty(times)
    for i in range(times):
        picked = differences[generator.integers(draws, size=draws)].mean(0)
        means[i] = picked[generator.integers(rows, size=rows)].mean()
    low, high = np.quantile(100 * means, [0.025, 0.975])
    return float(100 * differences.mean()), float(low), float(high)


def paired_gain(ours: Sequence[bool], other: Sequence[bool]) -> tuple[float, float]:
    """How many points `ours` is above `other` on the same rows, and the standard error of that difference."""
    differences = [a - b for a, b in zip(ours, other, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1)
    return 100 * mean, 100 * math.sqrt(variance / len(differences))
