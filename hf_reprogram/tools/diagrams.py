"""Figures of measurements: how candidates compare, and how far probabilities can be believed.

As in `figures`: matplotlib is imported when something is drawn, and every function returns the Figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..metrics import calibration, probabilities
from ..passes import at_least_one
from ..serve import labels_of, laid_out, score
from .figures import COLOURS, _axes


HALVED = "#e080b8"  # of the distance, beside the three of COLOURS: told apart with any sight of colours


def plot_selection(selection: Any, ax: Any = None) -> Any:
    """Accuracy of each entry of `select` with its interval, random weights beside it, simple guesses as lines.

    Args:
        selection: from `hr.select`.
        ax: matplotlib Axes to draw into; None makes a figure.

    Returns:
        The Figure.

    Example:

        hr.plot_selection(hr.select(models, rows)).savefig("models.png")
    """
    entries = selection.entries
    ax = _axes(ax, (8.5, 1.2 + 0.45 * len(entries)))
    place = np.arange(len(entries))
    value = np.array([100 * e.accuracy for e in entries])
    reach = np.array([[100 * (e.accuracy - e.low), 100 * (e.high - e.accuracy)] for e in entries]).reshape(-1, 2).T
    ax.errorbar(value, place, xerr=reach, fmt="o", color=COLOURS["heard"], capsize=3, label="ridge map, 95 %")
    random = [(100 * e.random["accuracy"], i) for i, e in enumerate(entries) if e.random]
    if random:
        ax.scatter(*zip(*random, strict=True), marker="x", color=COLOURS["added"], label="random weights")
    simple = (("majority", selection.majority, ":"), (selection.counted, selection.classical, "--"))
    for name, share, style in simple:
        if share == share:
            ax.axvline(100 * share, linestyle=style, color=COLOURS["clip"], label=name)
    ax.set_yticks(place, [e.name.replace("$", r"\$") for e in entries])
    ax.invert_yaxis()
    ax.set_xlabel("rows told right, each left out (%)")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return ax.figure


def plot_reliability(model: Any, rows: Any, ax: Any = None, bins: int = 15, features: Any = None) -> Any:
    """How often a model is right, by how sure it is; bars on the diagonal can be believed.

    Args:
        model: a ReprogramModel that gives each row one label.
        rows: labelled rows that it did not learn from.
        ax: matplotlib Axes to draw into; None makes a figure.
        bins: of equal width.
        features: what integer labels stand for; a dataset brings its own.

    Returns:
        The Figure, with the expected calibration error in its title.

    Raises:
        UsageError: another problem type.
        DataError: rows without labels.

    Example:

        hr.plot_reliability(model, test).savefig("reliability.png")
    """
    at_least_one("plot_reliability(bins)", bins)
    kind = model.problem_type()
    if kind != "single_label_classification":
        raise UsageError("plot_reliability(model)", f"a problem of type {kind}", "one label for each row")
    labels = labels_of(laid_out(model, rows, features)[1])
    if labels is None:
        raise DataError("plot_reliability(rows)", "rows without labels", "a label on each row")
    error, table = calibration(probabilities(score(model, rows), kind).numpy(), labels.numpy(), bins)
    ax = _axes(ax, (4.5, 4.5))
    left, width = np.arange(bins) / bins, 1 / bins
    ax.bar(
        left, np.nan_to_num(table[:, 2]), width, align="edge", color=COLOURS["heard"], edgecolor="white", label="right"
    )
    ax.plot([0, 1], [0, 1], linestyle="--", color=COLOURS["clip"], label="as sure as right")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of what is said", ylabel="share that is right")
    ax.set_title(f"calibration error {error:.3f}, {int(table[:, 0].sum()):,} rows", fontsize=11)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax.figure


def plot_bound(history: Any, ax: Any = None) -> Any:
    """The bound, what it bounds and what it is made of, by epoch.

    Args:
        history: of `hr.FollowBound`.
        ax: matplotlib Axes to draw into; None makes a figure.

    Returns:
        The Figure.

    Example:

        hr.plot_bound(follow.history).savefig("bound.png")
    """
    if not history or not all("bound" in row for row in history):
        raise UsageError("plot_bound(history)", f"{history!r}"[:80], "the history of hr.FollowBound after an epoch")
    ax = _axes(ax, (6.0, 4.0))
    epochs = [row["epoch"] for row in history]
    lines = (
        ("bound", "bound", COLOURS["heard"], "-", "o"),
        ("risk", "target risk through one class for each label", COLOURS["added"], "-.", "s"),
        ("source_risk", "source risk", COLOURS["clip"], "--", "^"),
        ("distance", "distance of the scores, halved", HALVED, ":", "x"),  # often on the bound, so drawn over it
    )
    for key, name, colour, style, marker in lines:
        values = np.array([row[key] for row in history]) * (0.5 if key == "distance" else 1.0)
        width, size = (3.5, 8) if key == "bound" else (1.5, 5)
        ax.plot(epochs, values, style, color=colour, linewidth=width, marker=marker, markersize=size, label=name)
    ax.axhline(2**0.5, color="0.85", zorder=0)  # above it the bound says nothing
    ax.set(
        xlabel="epoch", ylabel="mean |probabilities - one-hot|", ylim=(-0.04 * ax.get_ylim()[1], None)
    )  # a risk of 0 is seen above the axis
    ax.legend(frameon=False, fontsize=8)
    return ax.figure
