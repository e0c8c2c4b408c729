"""What the speech demo tells: what the rows of its table are, the sentences under it, and its figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.baselines import Outcome
from demo_report import COLOURS, FAINT, INK

from hf_reprogram.tools.figures import plot_spectrum, plot_wave


def notes(hummed: bool, few: int, unlabelled: int) -> dict[str, str]:
    """What each row of the table is, in a few words."""
    if not hummed:
        return {
            "map_only": "frozen tracker, its fixed map",
            "ours": "with the sound that undoes a hum",
            "ours:closed": "with the same in closed form",
        }
    return {
        "map_only": "frozen tracker, its fixed map",
        "ours": f"a sound learned from {few} frames",
        "ours:closed": f"minus the mean of {unlabelled}, no labels",
        "probe": f"ridge on its outputs, same {few}",
        "classical": f"regression on spectra, same {few}",
        "majority": "always the commonest label",
        "random_source": "ours on a tracker of random weights",
    }


def verdict(hummed: Sequence[Outcome], clean: Sequence[Outcome], truth: Sequence[str]) -> str:
    """In words: what ours is worth, what simpler things reach, and what it does where there is no hum."""
    reached = {outcome.method: outcome.accuracy(truth) for outcome in hummed}
    without = {outcome.method: outcome.accuracy(truth) for outcome in clean}
    simpler = sorted(set(reached) - {"ours", "random_source"}, key=lambda name: -reached[name])
    better = [f"{name} ({reached[name]:.1f})" for name in simpler if reached[name] >= reached["ours"]]
    lines = [
        f"The frozen tracker names {without['map_only']:.1f} % of clean frames, and {reached['map_only']:.1f} % under "
        f"the hum; with the learned sound {reached['ours']:.1f} %.",
        f"Simpler and at least as good here: {', '.join(better)}." if better else "No simpler way reaches it here.",
        f"Without any tracker, a regression on the spectra of the same frames: {reached['classical']:.1f}.",
        f"The same program on random weights: {reached['random_source']:.1f}, the commonest label alone: "
        f"{reached['majority']:.1f}.",
        f"On clean frames the same sounds do harm: {without['ours']:.1f} learned, {without['ours:closed']:.1f} in "
        "closed form. A program belongs to its disturbance: without the hum, disable it.",
        "The sounds are synthetic, the hum's phase is known, and this is one draw and one training order.",
    ]
    return "\n".join(textwrap.fill(line, 98) for line in lines)


# The figure ----------------------------------------------------------------------------------------------------------

BLUE, ORANGE = COLOURS["positive"][1], COLOURS["negative"][1]
SIZE = (8.0, 4.0)  # inches


def draw(
    path: Path, hum: np.ndarray, learned: np.ndarray, closed: np.ndarray, reached: Mapping[str, float], rate: int
) -> None:
    """The hum and the sounds that undo it, in time and in frequency.

    Args:
        path: of the PNG.
        hum, learned, closed: (period,) one period of each.
        reached: accuracy in percent under the hum, by method.
        rate: samples per second.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sounds = {"hum": hum, "learned": learned, "closed": closed}
    with plt.rc_context({"font.family": "sans-serif", "font.size": 9, "text.color": INK}):
        figure = plt.figure(figsize=SIZE, dpi=200, facecolor="white")
        time, frequency = (figure.add_axes((left, 0.13, 0.4, 0.53)) for left in (0.075, 0.575))
        _in_time(time, sounds, rate)
        _in_frequency(frequency, sounds, rate)
        for axes in (time, frequency):
            axes.spines[["right", "top"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(FAINT)
            axes.title.set_fontsize(10)
            axes.tick_params(color=FAINT, labelcolor=FAINT, length=3, labelsize=8)
        _head(figure, reached)
        figure.savefig(path)
        plt.close(figure)


def _in_time(axes: Any, sounds: Mapping[str, np.ndarray], rate: int) -> None:
    plot_wave(sounds, rate, axes)
    _dress(axes.lines, linewidth=(1.6, 0.9, 0.9), linestyle=("-", "-", (0, (4, 2))))
    axes.set(xticks=(0, 0.005, 0.01, 0.015), title="In time: amplitude of one period")


def _in_frequency(axes: Any, sounds: Mapping[str, np.ndarray], rate: int) -> None:
    plot_spectrum(sounds, rate, axes)  # of a period: single frequencies, no curve
    _dress(
        axes.lines, linestyle=("none",) * 3, marker=("o",) * 3, markersize=(5.0, 2.7, 1.8), markeredgewidth=(0,) * 3
    )
    axes.set(xlim=(44, rate / 2 * 1.1), ylim=(-85, 0), title="In frequency: amplitude in dB")
    axes.minorticks_off()
    axes.set_xticks([50, 100, 200, 500, 1000, 2000, 5000])


def _dress(lines: Sequence[Any], **looks: Sequence[Any]) -> None:
    """The hum, the learned sound and the one in closed form, each in its look."""
    for i, (line, colour) in enumerate(zip(lines, (ORANGE, BLUE, INK), strict=True)):
        line.set(color=colour, **{name: values[i] for name, values in looks.items()})


def _head(figure: Any, reached: Mapping[str, float]) -> None:
    """The statement, and how to read the picture: its key stands in the text, in the colours that it explains."""

    def line(y: float, *pieces: tuple[str, str], **font: Any) -> None:
        x = 0.05
        for text, colour in pieces:
            drawn = figure.text(x, 1 - y / SIZE[1], text, color=colour, va="baseline", **font)
            x += drawn.get_window_extent().width / figure.bbox.width

    line(0.36, ("A hum deafens a frozen pitch tracker; an added sound undoes it", INK), fontsize=14, weight="bold")
    line(
        0.64, (f"The hum: {reached['map_only']:.1f} % right. ", ORANGE),
        (f"Sound learned from labels: {reached['ours']:.1f} %. ", BLUE),
        (f"In closed form, without labels (dashed, small): {reached['ours:closed']:.1f} %.", INK), fontsize=8.5,
    )  # fmt: skip
    line(
        0.84, (f"On random weights the learned one reaches {reached['random_source']:.1f} %. Synthetic tones.", FAINT),
        fontsize=8.5,
    )  # fmt: skip
