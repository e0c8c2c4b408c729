"""Figures of measurements: how candidates compare, and how far probabilities can be believed.

As in `figures`: matplotlib is imported when something is drawn, and every function returns the Figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .figures import COLOURS, _axes


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
    simple = (("majority", selection.majority, ":"), ("TF-IDF", selection.classical, "--"))
    for name, share, style in simple:
        if share == share:
            ax.axvline(100 * share, linestyle=style, color=COLOURS["clip"], label=name)
    ax.set_yticks(place, [e.name.replace("$", r"\$") for e in entries])
    ax.invert_yaxis()
    ax.set_xlabel("rows told right, each left out (%)")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return ax.figure
