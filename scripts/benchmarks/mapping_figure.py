#!/usr/bin/env python3
"""The figure of mapping_study.py, from its results: maps by source and shots, and what centring is worth by rho.

python scripts/benchmarks/mapping_figure.py            # writes docs/mapping_study.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # docs_maps.py

from docs_maps import SHOTS, SOURCES, WIDE, average, cells_of, gains, order


ROOT = Path(__file__).parents[2]


def draw(found: dict[str, Any]) -> Any:
    """The Figure."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    cells = cells_of(found)
    columns = [(source, shots) for source in SOURCES for shots in SHOTS]
    names = order(cells)
    found_there = [[average(cells, *column, name) for column in columns] for name in names]
    table = np.array([[np.nan if value is None else value[0] for value in row] for row in found_there])
    left.imshow(table, aspect="auto", cmap="viridis", vmin=0, vmax=100)
    for (i, k), value in np.ndenumerate(table):
        if np.isfinite(value):
            left.text(k, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if value < 70 else "k")
    left.set_yticks(range(len(names)), ["ridge of states" if name == "probe" else name for name in names], fontsize=7)
    left.set_xticks(range(len(columns)), [f"{source}, {shots}" for source, shots in columns], fontsize=7, rotation=60)
    left.set_xticklabels(left.get_xticklabels(), ha="right", rotation_mode="anchor")
    left.set_title("balanced accuracy, mean of five targets", fontsize=9)
    for source in SOURCES:
        for name, mark in (("frequency", "o"), ("bayesian", "^")):
            points = [(rho, gain) for s, m, rho, gain in gains(found) if (s, m) == (source, name)]
            if points:
                colour = f"C{list(SOURCES).index(source)}"
                right.scatter(*zip(*points, strict=True), s=18, marker=mark, color=colour, label=f"{source}: {name}")
    right.axhline(0, color="0.7", linewidth=0.8)
    right.axvline(WIDE, color="0.7", linewidth=0.8, linestyle=":")
    right.set_xscale("log")
    right.set_xticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    right.minorticks_off()
    right.set_xlabel("rho: deviation of the outputs' means over that of an output", fontsize=8)
    right.set_ylabel("points gained by centring", fontsize=8)
    right.tick_params(labelsize=7)
    right.legend(fontsize=6)
    return figure


if __name__ == "__main__":
    results = Path(__file__).parent / "results" / "mapping_study.json"
    draw(json.loads(results.read_text())).savefig(ROOT / "docs" / "mapping_study.png", dpi=90)
