"""What the demo tells: its table, the sentence under it, and its figure."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baselines import Outcome
from benchmarks.intervals import paired_gain


Row = dict[str, Any]


def table(outcomes: Sequence[Outcome], truth: Sequence[str], notes: Mapping[str, str], task: str) -> list[Row]:
    """The table as plain values, best first; accuracy and its binomial standard error in percent."""
    rows = []
    for outcome in sorted(outcomes, key=lambda o: -o.accuracy(truth)):
        accuracy = outcome.accuracy(truth)
        rows.append(
            {
                "task": task,
                "method": outcome.method,
                "accuracy": round(accuracy, 2),
                "standard_error": round((accuracy * (100 - accuracy) / len(truth)) ** 0.5, 2),
                "n": len(truth),
                "trained_parameters": outcome.trained_parameters,
                "artefact_bytes": outcome.artefact_bytes,
                "seconds": round(outcome.seconds, 2),
                "note": notes[outcome.method],
            }
        )
    return rows


def notes(few: int, every: int) -> dict[str, str]:
    """What each row of the table is, in a few words."""
    return {
        "ours": f"10 vectors trained on {few} sentences",
        "majority": "always the commoner label",
        f"classical:{few}": f"TF-IDF regression, same {few} sentences",
        "classical:all": f"TF-IDF regression, {every:,} sentences",
        "zero_shot": "frozen model, its label words",
        "calibrated": "its label words, less its bias on 'N/A'",
        "probe": f"linear probe (ridge), same {few}",
        "random_source": "ours on a model of random weights",
    }


def shown(rows: Sequence[Row]) -> str:
    """The table for people, within 100 columns."""
    head = f"{'method':<13} {'accuracy':>8} {'± s.e.':>6} {'trained':>8} {'bytes':>9} {'seconds':>8}  what it is"
    lines = [head, "-" * 94]
    for row in rows:
        lines.append(
            f"{row['method']:<13} {row['accuracy']:8.1f} {row['standard_error']:6.1f} "
            f"{row['trained_parameters']:8,} {row['artefact_bytes']:9,} {row['seconds']:8.1f}  {row['note']}"
        )
    return "\n".join(lines)


def verdict(outcomes: Sequence[Outcome], truth: Sequence[str]) -> str:
    """In words: what ours is worth, and where simpler models stand."""
    by_name = {outcome.method: outcome for outcome in outcomes}
    reached = {name: outcome.accuracy(truth) for name, outcome in by_name.items()}
    ours = by_name["ours"]

    def against(name: str) -> str:
        gain, error = paired_gain(ours.right(truth), by_name[name].right(truth))
        return f"{abs(gain):.1f} points {'above' if gain >= 0 else 'BELOW'} {name} (standard error {error:.1f})"

    simpler = sorted(set(by_name) - {"ours", "random_source"}, key=lambda name: -reached[name])
    better = [f"{name} ({reached[name]:.1f})" for name in simpler if reached[name] >= reached["ours"]]
    lines = [
        f"ours is {against('calibrated')}, differences paired over {len(truth):,} sentences.",
        f"It is {against('probe')}, and {against('classical:all')}.",
        f"Simpler and at least as good here: {', '.join(better)}." if better else "No simpler model reaches it here.",
        f"The same program on random weights: {reached['random_source']:.1f}, the commoner label alone: "
        f"{reached['majority']:.1f}.",
        "This is one draw of sentences and one training order; others come out some points higher or lower.",
    ]
    return "\n".join(textwrap.fill(line, 98) for line in lines)


# The figure ----------------------------------------------------------------------------------------------------------


INK, FAINT = "#22252a", "#8a9099"
# Right and wrong of each label, after Okabe and Ito: colour-blind readers tell them apart, and lightness would do.
COLOURS = {"positive": ("#a5cfe9", "#0072b2"), "negative": ("#f6c39b", "#d55e00")}
WIDTH, SIDE, TOP, BETWEEN, BOTTOM = 8.0, 0.45, 1.32, 0.92, 0.6  # inches; the heights follow from the dots
BINS = 150


def draw(path: Path, outcomes: Mapping[str, Outcome], truth: Sequence[str], few: int) -> None:
    """Where the scores of the test sentences lie before and after: one dot per sentence, positive ones upwards.

    Args:
        path: of the PNG.
        outcomes: by method; drawn are `zero_shot` with the offset of `calibrated`, and `ours`.
        truth: labels of the test rows.
        few: how many sentences ours learned from.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    before, after = (_log_odds(outcomes[name]) for name in ("zero_shot", "ours"))
    reached = {name: f"{outcome.accuracy(truth):.1f} %" for name, outcome in outcomes.items()}
    # Calibration subtracts the same from every score: in the picture it moves the threshold instead.
    moved = before[0] - _log_odds(outcomes["calibrated"])[0]
    low, high = min(0.0, *before, *after), max(0.0, *before, *after)
    step = max(high - low, 1e-6) / BINS
    stacks = [_stack(values, truth, step) for values in (before, after)]
    inch = (WIDTH - 2 * SIDE) / (BINS + 2)  # of one dot
    heights = [(max(d.y for d in dots) - min(d.y for d in dots) + 5) * inch for dots in stacks]
    whole = TOP + heights[0] + BETWEEN + heights[1] + BOTTOM

    with plt.rc_context({"font.family": "sans-serif", "font.size": 9, "text.color": INK}):
        figure = plt.figure(figsize=(WIDTH, whole), dpi=200, facecolor="white")
        panels, at = [], whole - TOP
        for dots, height in zip(stacks, heights, strict=True):
            at -= height
            axes = figure.add_axes((SIDE / WIDTH, at / whole, 1 - 2 * SIDE / WIDTH, height / whole))
            axes.set(xlim=(low - step, high + step), ylim=(min(d.y for d in dots) - 2.5, max(d.y for d in dots) + 2.5))
            _dots(axes, dots, 72 * inch)
            panels.append(axes)
            at -= BETWEEN
        _title(panels[0], "Before: the frozen model as it is", f"{reached['zero_shot']} right")
        _title(panels[1], f"After: ten vectors trained on {few} sentences", f"{reached['ours']} right")
        side = "right" if moved >= 0 else "left"
        _threshold(panels[0], 0, "threshold", "left" if side == "right" else "right")
        _threshold(panels[0], moved, f"calibrated threshold: {reached['calibrated']} right", side, (0, (4, 2)))
        _threshold(panels[1], 0, "threshold", "right")
        panels[1].set_xlabel("log odds of “positive” against “negative”, in nats", color=INK, labelpad=5)
        _head(figure, len(truth), whole)
        figure.savefig(path)
        plt.close(figure)


@dataclass(frozen=True)
class Dot:
    """One sentence in a panel."""

    label: str
    wrong: bool
    x: float
    y: int


def _log_odds(outcome: Outcome) -> list[float]:
    """Score of `positive` less that of `negative`, row by row."""
    return (outcome.scores[:, 1] - outcome.scores[:, 0]).tolist()


def _stack(values: Sequence[float], truth: Sequence[str], step: float) -> list[Dot]:
    """Dots in columns, one per bin and label, positive ones upwards, negative ones downwards; an edge lies at 0."""
    heights: Counter[tuple[int, str]] = Counter()
    dots = []
    for value, label in zip(values, truth, strict=True):
        column = math.ceil(value / step) - 1  # a tie goes to the first label, `negative`
        heights[column, label] += 1
        y = heights[column, label] if label == "positive" else -heights[column, label]
        dots.append(Dot(label, (value > 0) != (label == "positive"), (column + 0.5) * step, y))
    return dots


def _dots(axes: Any, dots: Sequence[Dot], points: float) -> None:
    """All dots of a panel, and a quiet axis under them."""
    colours = [COLOURS[dot.label][dot.wrong] for dot in dots]
    axes.scatter([d.x for d in dots], [d.y for d in dots], s=(0.84 * points) ** 2, c=colours, linewidths=0, zorder=3)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(left=False, labelleft=False, color=FAINT, labelcolor=FAINT, length=3, labelsize=8)


def _title(axes: Any, text: str, score: str) -> None:
    axes.annotate(text, (0, 1), (0, 10), xycoords="axes fraction", textcoords="offset points", fontsize=11)
    axes.annotate(
        score, (1, 1), (0, 10), xycoords="axes fraction", textcoords="offset points", fontsize=11, weight="bold",
        ha="right",
    )  # fmt: skip


def _threshold(axes: Any, at: float, text: str, side: str, style: Any = "-") -> None:
    """A vertical line with its name on top, on one side of it."""
    axes.axvline(at, color=INK, linewidth=0.9, linestyle=style, zorder=4)
    shift, align = (3, "left") if side == "right" else (-3, "right")
    axes.annotate(
        text, (at, 1), (shift, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
        ha=align, va="top",
    )  # fmt: skip


def _head(figure: Any, rows: int, whole: float) -> None:
    """The question, and how to read the picture: its key stands in the text, in the colours that it explains."""

    def line(y: float, *pieces: tuple[str, str], **font: Any) -> None:
        x = SIDE / WIDTH
        for text, colour in pieces:
            drawn = figure.text(x, 1 - y / whole, text, color=colour, va="baseline", **font)
            x += drawn.get_window_extent().width / figure.bbox.width

    line(0.42, ("Is this review positive? What a frozen language model says", INK), fontsize=14, weight="bold")
    blue, orange = COLOURS["positive"][1], COLOURS["negative"][1]
    line(
        0.68, (f"A dot is one of {rows:,} held-out sentences. ", INK), ("Positive ones rise, ", blue),
        ("negative ones hang; ", orange), ("a strong colour means misjudged.", INK), fontsize=8.5,
    )  # fmt: skip
