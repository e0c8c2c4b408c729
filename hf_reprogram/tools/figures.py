"""Figures: what a program does to a sound and where the sound sits, and what a mapping reads.

matplotlib is imported when a figure is drawn. Every function draws where it is told to, or makes a figure with pyplot,
and returns the Figure; nothing is shown or saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..data.audio import TORCHAUDIO
from ..data.rows import as_rows
from ..errors import ConfigError, DataError, UsageError, first_line
from ..explain import carried, through_waves
from ..mappings.similarity import cosines
from ..passes import asleep, at_least_one, batches
from ..processors import tokenizer_of


COLOURS = {"clip": "#8c8c8c", "added": "#d55e00", "heard": "#0072b2"}
TITLES = {"clip": "the sound on its canvas", "added": "what is added", "heard": "what the base hears"}
FRAME = 1024  # samples: longer sounds have the mean spectrum of their frames
MELS, RANGE = 64, 80.0  # where the base hears the wave itself: bands, and dB below the loudest


# A program -----------------------------------------------------------------------------------------------------------


def plot_program(model: Any, row: Any, figure: Any = None) -> Any:
    """What a program does to one sound: in time, in frequency, and as a spectrogram.

    Of a program that changes the wave: the canvas, what is added to it, and what the base hears, with their spectra.
    Then the spectrogram before and after, and the difference: of the base's own features where it wants some, else mel
    bands in dB. Grey is where the row's own signal sits. What happens inside the base is no sound, and is not drawn.

    Args:
        model: a ReprogramModel whose base hears.
        row: a path, or a dict row with `audio` or `series`; its `adapter` names the program, its label is not read.
        figure: a matplotlib Figure or SubFigure to draw into; None makes one.

    Returns:
        The Figure.

    Raises:
        UsageError: a base that reads.
        DataError: several rows, or one that cannot be laid out.
        ConfigError: matplotlib is missing; or torchaudio, where the base hears the wave itself.

    Example:

        hr.plot_program(model, "clip.wav").savefig("program.png")
    """
    heard = _heard(model, row)
    figure = _pyplot().figure(figsize=(9.0, 6.5), layout="constrained") if figure is None else figure
    rows = _layout(heard)
    panels = figure.subplot_mosaic(rows, height_ratios=[1.0] * (len(rows) - 1) + [2.5])
    figure.suptitle(heard.title, fontsize=11)
    waves = {name: wave for name, wave in heard.waves.items() if name in panels}
    loudest = max(float(np.abs(wave).max()) for wave in waves.values())
    for name, wave in waves.items():
        plot_wave({name: wave}, heard.rate, panels[name])
        panels[name].set(ylim=(-1.05 * loudest, 1.05 * loudest))
        panels[name].set_title(TITLES[name], fontsize=9)
        spans = np.flatnonzero(np.diff(heard.here, prepend=False, append=False)).reshape(-1, 2) / heard.rate
        whole_height = panels[name].get_xaxis_transform()
        panels[name].broken_barh(
            [(a, b - a) for a, b in spans], (0, 1), transform=whole_height, color="0.92", zorder=0
        )
    if "spectrum" in panels:
        plot_spectrum(waves, heard.rate, panels["spectrum"])
        panels["spectrum"].set_title("amplitude in dB", fontsize=9)
        panels["spectrum"].legend([TITLES[name] for name in waves], frameon=False, fontsize=7)
    _spectrograms(figure, panels, heard)
    return figure


def plot_wave(sounds: Mapping[str, Any], rate: int, ax: Any = None) -> Any:
    """Sounds in time, one over the other, the first undermost; their names are the labels of a legend.

    Args:
        sounds: (samples,) by name.
        rate: samples per second.
        ax: matplotlib Axes to draw into; None makes a figure.

    Returns:
        The Figure.
    """
    ax = _axes(ax, (7.0, 2.5))
    for name, sound in sounds.items():
        ax.plot(np.arange(len(sound)) / rate, sound, color=COLOURS.get(name), linewidth=0.8, label=name)
    ax.margins(x=0)
    _in_units(ax.xaxis, "s")
    return ax.figure


def plot_spectrum(sounds: Mapping[str, Any], rate: int, ax: Any = None) -> Any:
    """The same in frequency: `levels` of each.

    Args:
        sounds, rate, ax: as for `plot_wave`.

    Returns:
        The Figure.
    """
    from matplotlib.ticker import NullFormatter

    ax = _axes(ax, (4.0, 3.0))
    for name, sound in sounds.items():
        ax.plot(*levels(sound, rate), color=COLOURS.get(name), linewidth=0.8, label=name)
    ax.set_xscale("log")
    ax.margins(x=0)
    ax.xaxis.set_minor_formatter(NullFormatter())
    _in_units(ax.xaxis, "Hz")
    return ax.figure


def levels(sound: Any, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """(hertz, dB) of a sound, without the constant part: 0 dB is a sine of amplitude 1, -100 is as good as nothing.

    Up to 1,024 samples are taken as one period of a sound that repeats; of a longer sound it is the mean power of half
    overlapping frames under a Hann window (Welch).

    Example:

        >>> hertz, level = levels(0.1 * np.sin(2 * np.pi * np.arange(8) / 8), 8000)
        >>> hertz.tolist(), level.round(3).tolist()
        ([1000.0, 2000.0, 3000.0, 4000.0], [-20.0, -100.0, -100.0, -100.0])
    """
    from scipy.signal import welch

    sound = np.asarray(sound, dtype=np.float64)
    window, size = ("hann", FRAME) if len(sound) > FRAME else ("boxcar", len(sound))
    hertz, power = welch(sound, rate, window, size, detrend=False, scaling="spectrum")  # half its square for a sine
    return hertz[1:], 10 * np.log10(np.maximum(2 * power[1:], 1e-10))


@dataclass(frozen=True)
class _Heard:
    """One row before and after its programs.

    Args:
        title: which programs, on what.
        changes: the stages that they change.
        rate: samples per second.
        waves: (samples,) each: `clip` (where the programs leave it), `added`, `heard`.
        here: (samples,) where the row's own signal sits.
        features: (bands, frames) before and after.
        hop: samples from one frame to the next.
        bands: what the rows of `features` are.
        in_step: whether a frame after stands where the same frame stood before.
    """

    title: str
    changes: set[str]
    rate: int
    waves: dict[str, np.ndarray]
    here: np.ndarray
    features: list[np.ndarray]
    hop: int
    bands: str
    in_step: bool


def _heard(model: Any, row: Any) -> _Heard:
    backbone = model.backbone
    base = type(backbone.base).__name__
    if backbone.modality != "audio":
        fix = "print(model.explain()) names the nearest tokens of its vectors; plot_mapping(model) draws what is read"
        raise UsageError(
            "plot_program(model)", f"a program for a {base}, which reads", "one for a base that hears", fix
        )
    rows = as_rows(row, model.text_column())
    if len(rows) > 1:
        raise DataError("row", f"{len(rows)} rows", "one: a figure is of one sound")
    collator = model.collator()
    made = collator.lay_out(rows, labelled=False)
    chain = model.base_model.sites()[0].entries[made[0].adapter or model.active_name()]
    with asleep(model):
        ((_, columns),) = batches(model, collator, made, progress=False)
        batch = model.reprogrammed.batch(**columns)
        after = heard = through_waves(chain, batch, backbone)
        for program in chain:
            if program.accepts != "wave":
                after = program(backbone.bring(after, program.accepts), backbone)
        clip = carried(batch, heard)
        before = replace(batch, input_values=clip, signal_mask=heard.signal_mask)
        features, hop, bands = _features(backbone, before, after)
    inside = " and ".join(program.options.type for program in chain if program.accepts == "latent")
    title = f"{' + '.join(program.options.type for program in chain)} on {base}"
    waves = {"clip": clip, "added": heard.input_values - clip, "heard": heard.input_values}
    return _Heard(
        title + (f"; {inside} acts inside it, which is no sound" if inside else ""),
        {program.accepts for program in chain}, backbone.frontend.sampling_rate,
        {name: _first(wave) for name, wave in waves.items()}, _first(heard.signal_mask) > 0,
        features, hop, bands, torch.equal(heard.signal_mask, after.signal_mask),
    )  # fmt: skip


def _first(batch: Tensor) -> np.ndarray:
    return batch[0].detach().float().cpu().numpy()


def _features(backbone: Any, *rows: Batch) -> tuple[list[np.ndarray], int, str]:
    """(bands, frames) of each; samples from frame to frame; what the bands are."""
    rate = backbone.frontend.sampling_rate
    if backbone.frontend.axes is not None:
        made = [_first(backbone.bring(row, "features").input_features) for row in rows]
        return made, backbone.frontend.span[0], "row of the base's features"
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError("torchaudio", f"not usable ({first_line(error)})", "torchaudio", TORCHAUDIO) from error
    hop = rate // 100
    mel = MelSpectrogram(rate, FRAME, win_length=rate // 40, hop_length=hop, n_mels=MELS, pad_mode="constant")
    energies = [mel(row.input_values[0].float().cpu()).numpy() for row in rows]
    floor = max(energy.max() for energy in energies) * 10 ** (-RANGE / 10)
    return [10 * np.log10(np.maximum(energy, max(floor, 1e-30))) for energy in energies], hop, "mel band, in dB"


def _layout(heard: _Heard) -> list[list[str]]:
    """Names of panels, for `subplot_mosaic`: three columns."""
    if not heard.changes & {"wave", "features"}:
        return [["clip"] * 3, ["before"] * 3]
    spectrograms = ["before", "after", "difference" if heard.in_step else "after"]
    if "wave" not in heard.changes:
        return [["clip"] * 3, spectrograms]
    return [*([name, name, "spectrum"] for name in heard.waves), spectrograms]


def _spectrograms(figure: Any, panels: Mapping[str, Any], heard: _Heard) -> None:
    """Before and after on one scale of colours, the difference on one of its own."""
    shown = {name: made for name, made in zip(("before", "after"), heard.features, strict=True) if name in panels}
    span = {"vmin": min(made.min() for made in shown.values()), "vmax": max(made.max() for made in shown.values())}
    for name, made in shown.items():
        image = _image(panels[name], made, heard, cmap="magma", **span)
    panels["before"].set_ylabel(heard.bands, fontsize=8)
    figure.colorbar(image, ax=[panels[name] for name in shown])
    for name in shown:
        panels[name].set_title(name if len(shown) > 1 else "as the base hears it", fontsize=9)
    if "difference" in panels:
        gap = heard.features[1] - heard.features[0]
        limit = float(np.abs(gap).max()) or 1.0
        image = _image(panels["difference"], gap, heard, cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(image, ax=panels["difference"])
        panels["difference"].set_title("difference", fontsize=9)


def _image(ax: Any, values: np.ndarray, heard: _Heard, **look: Any) -> Any:
    bands, frames = values.shape
    extent = (0, frames * heard.hop / heard.rate, 0, bands)
    image = ax.imshow(values, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **look)
    _in_units(ax.xaxis, "s")
    return image


# A mapping -----------------------------------------------------------------------------------------------------------


def plot_mapping(model: Any, ax: Any = None, most: int = 40) -> Any:
    """Which source labels the active mapping reads as which target label: a heat map of their weights.

    Of a map of hidden states, whose numbers have no names: how alike it takes the target labels to be, the cosine
    between what their scores are made of, less what all share.

    Args:
        model: a ReprogramModel.
        ax: matplotlib Axes to draw into; None makes a figure.
        most: source labels that are drawn: those of the largest weights, by the target label that they count for most.

    Returns:
        The Figure.

    Raises:
        UsageError: a mapping that must be fitted first, or one of texts or of the base's own output; `most` below 1.
        ConfigError: matplotlib is missing.

    Example:

        hr.plot_mapping(model).savefig("mapping.png")
    """
    mapping = model.active_mapping()
    at_least_one("plot_mapping(most)", most)
    if mapping.needs_fit:
        raise UsageError("plot_mapping(model)", "a mapping that must be fitted", "a fitted one", "fit_mapping(rows)")
    found, rows = mapping.weights(), mapping.label_rows()
    if rows is not None:
        return _alike(model, rows, ax)
    if found is None:
        what = f"the mapping {mapping.options.type!r} reads nothing that has names of its own"
        raise UsageError("plot_mapping(model)", what, "one that reads classes, words or tokens")
    names, weights = found[0], found[1].detach().float().cpu().numpy()  # (labels, source labels)
    chosen = _strongest(weights, most)
    weights, shown = weights[:, chosen], [_shown(names[i], model.processing_class) for i in chosen]
    ax = _axes(ax, (2.5 + 0.28 * len(chosen), 2.0 + 0.3 * len(weights)))
    limit = float(np.abs(weights).max()) or 1.0
    signed = bool((weights < 0).any())
    image = ax.imshow(weights, aspect="auto", cmap="RdBu_r" if signed else "Blues", vmin=-limit * signed, vmax=limit)
    ax.set_xticks(range(len(shown)), shown, rotation=90, fontsize=8)
    ax.set_yticks(range(len(weights)), [_shown(label) for label in model.label_names()])
    counted = f"{len(chosen)} of {len(names)}" if len(chosen) < len(names) else f"{len(names)}"
    ax.set_title(f"{mapping.options.type}: {counted} source labels", fontsize=11)
    ax.figure.colorbar(image, ax=ax, label="weight")
    return ax.figure


def _alike(model: Any, rows: Any, ax: Any) -> Any:
    """Target labels beside each other: (labels, labels)."""
    rows = rows.double().cpu().numpy()
    likeness = cosines(rows - rows.mean(0), rows - rows.mean(0))
    labels = [_shown(label) for label in model.label_names()]
    ax = _axes(ax, (3.0 + 0.3 * len(labels), 2.5 + 0.3 * len(labels)))
    image = ax.imshow(likeness, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_title(f"{model.active_mapping().options.type} of states: labels that look alike", fontsize=11)
    ax.figure.colorbar(image, ax=ax, label="cosine")
    return ax.figure


def _strongest(weights: np.ndarray, most: int) -> np.ndarray:
    """Columns of the largest weights, first those that count for the first row.

    Example:

        >>> _strongest(np.array([[0.0, 0.1, 3.0], [-2.0, 0.0, 1.0]]), 2).tolist()
        [2, 0]
    """
    size = np.abs(weights)
    kept = np.argsort(-size.max(0), kind="stable")[:most]
    return kept[np.argsort(size[:, kept].argmax(0), kind="stable")]


def _shown(name: Any, processor: Any = None) -> str:
    """A label as the text of a tick: tokens decoded, spaces seen, no formulas.

    Example:

        >>> _shown(" good"), _shown("$5")
        ("' good'", '\\\\$5')
    """
    if isinstance(name, int):
        tokenizer = tokenizer_of(processor)
        name = f"token {name}" if tokenizer is None else tokenizer.decode([name])
    name = name if name.strip() == name else repr(name)
    return (name if len(name) <= 28 else name[:27] + "…").replace("$", r"\$")


# matplotlib ----------------------------------------------------------------------------------------------------------


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        fix = "pip install 'hf-reprogram[figures]'"
        raise ConfigError("matplotlib", f"not usable ({first_line(error)})", "matplotlib", fix) from error
    return pyplot


def _axes(ax: Any, size: tuple[float, float]) -> Any:
    return _pyplot().figure(figsize=size, layout="constrained").add_subplot() if ax is None else ax


def _in_units(axis: Any, unit: str) -> None:
    """Ticks as 500 ms, 1 kHz."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(unit))
