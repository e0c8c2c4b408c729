"""Rows with sound, or with a series of numbers, to one batch of canvases."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from ..canvas import CanvasConfig, lay_out
from ..config import ReprogramConfig
from ..errors import ConfigError, DataError, UsageError, did_you_mean, first_line
from .rows import LABEL_COLUMNS, SAMPLES, as_rows, label_column, label_columns, label_tensor, program_of, target_of


COLUMNS = ("audio", "series")
TORCHAUDIO = "pip install 'hf-reprogram[audio]', which pins torch and torchaudio to a pair that loads"


@dataclass(frozen=True)
class AudioLayout:
    """How rows of one program are laid out, and what their labels are."""

    canvas: CanvasConfig
    labels: tuple[str, ...] | None = None
    problem_type: str = "single_label_classification"
    mapping: Any = None  # its options, which tell what ids a text is


@dataclass
class Clip:
    """One row: its signal at the base's rate, not on the canvas yet; program, label, place on the source's clock."""

    adapter: str | None
    signal: np.ndarray
    label: int | list[float] | list[int] | None = None
    where: str = "rows[0]"
    offset: int | None = None

    def __len__(self) -> int:
        return 1  # on the canvas all are of one length

    def key(self) -> str:
        """A digest of the signal, and of where it began."""
        digest = xxhash.xxh3_64(np.ascontiguousarray(self.signal).data)
        digest.update(b"" if self.offset is None else str(self.offset).encode())
        return digest.hexdigest()


class AudioCollator:
    """Rows to one batch. Plain data only, so that it travels to workers; a snapshot of the model's programs.

    A row holds `audio` (a path, the bytes of a file, `{"array": ..., "sampling_rate": ...}`, or what an Audio column
    of `datasets` gives with `decode=False`) or `series` (a list of numbers, one per sample). Its target is a `label`,
    or what is said, its `text`. An `offset` is the number of the canvas's first sample, at the base's rate, on the
    clock of the source: a periodic program keeps its phase.

    Args:
        rate: samples per second of the base.
        layouts: by program name.
        active: the program of rows that name none in an `adapter` column.
        names: names that integer labels stand for, in order; None refuses integers.
        tokenizer: the base's, where it has one, for texts.

    Returns of a call:
        dict of `input_values` (batch, samples) float32, `signal_mask` (batch, samples) bool: where the signal sits;
        `labels`, `offset` (batch,) and `adapter_names` where the rows have them.
    """

    one_length = True  # on the canvas: no need to read every clip to sort them

    def __init__(
        self, rate: int, layouts: Mapping[str, AudioLayout], active: str, names: Sequence[str] | None = None,
        tokenizer: Any = None,
    ) -> None:  # fmt: skip
        self.rate, self.layouts, self.active, self.names = rate, dict(layouts), active, names
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        return self.stack(self.lay_out(rows))

    def lay_out(self, rows: Sequence[Any], labelled: bool = True) -> list[Clip]:
        """Rows read and resampled, not on their canvases yet; labels too, unless told otherwise."""
        made = []
        for i, row in enumerate(as_rows(rows, "audio")):
            name = program_of(row, self.layouts, self.active, f"rows[{i}]")
            where = f"rows[{i}]"
            clip = Clip(row.get("adapter"), self._signal(row, where), None, where, _offset(row, where))
            layout = self.layouts[name]
            column = label_column(row, label_columns(layout.problem_type, hears=True)) if labelled else None
            if column is not None:
                clip.label = self._label(row[column], layout, f"{where}[{column!r}]")
            made.append(clip)
        return made

    def for_writing(self, new: int = 0) -> None:
        """Nothing: a base that hears writes after the same canvas."""

    def stack(self, made: Sequence[Clip]) -> dict[str, Any]:
        """Clips on their canvases as one batch."""
        placed = [
            lay_out(clip.signal, self.layouts[clip.adapter or self.active].canvas, self.rate, clip.where)
            for clip in made
        ]
        sizes = sorted({len(wave) for wave, _ in placed})
        if len(sizes) > 1:
            raise UsageError("adapter", f"programs with canvases of {sizes} samples in one batch", "one canvas")
        batch: dict[str, Any] = {
            "input_values": torch.from_numpy(np.stack([wave for wave, _ in placed])),  # (batch, samples)
            "signal_mask": torch.from_numpy(np.stack([here for _, here in placed])),
        }
        if any(clip.adapter for clip in made):
            batch["adapter_names"] = [clip.adapter or self.active for clip in made]
        for column, key in (("label", "labels"), ("offset", "offset")):
            found = [getattr(clip, column) for clip in made]
            if any(value is not None for value in found):
                if None in found:
                    clip = made[found.index(None)]
                    writes = self.layouts[clip.adapter or self.active].problem_type == "transcription"
                    name = "text" if writes and column == "label" else column
                    what = "missing, and other rows of the batch have one"
                    where = f"rows[{found.index(None)}][{name!r}]"
                    raise DataError(where, what, f"{name}s on all rows or on none")
                batch[key] = label_tensor(found)
        return batch

    def _label(self, label: Any, layout: AudioLayout, where: str) -> int | list[float] | list[int]:
        if layout.problem_type == "transcription":
            if not isinstance(label, str):
                what = f"{label!r} is a {type(label).__name__}"[:120]
                raise DataError(where, what, "what is said", 'a column "text" with it')
            if not label.strip():
                raise DataError(where, f"{label!r} is empty", "what is said", "drop such rows")
            return layout.mapping.encode(label, self.tokenizer, where)
        if layout.labels is None:
            what = f"{label!r}, and the program has no labels"
            raise DataError(where, what, fix="give ReprogramConfig(labels=[...])")
        return target_of(label, layout.labels, layout.problem_type, self.names, where)

    def _signal(self, row: Mapping[str, Any], where: str) -> np.ndarray:
        """(n,) float32 at the base's rate."""
        given = [c for c in COLUMNS if row.get(c) is not None]
        if len(given) != 1:
            if not given and set(row) <= {*LABEL_COLUMNS, "adapter", "offset"}:
                fix = "Trainer dropped it: set TrainingArguments(remove_unused_columns=False)"
                raise UsageError(f"{where}['audio']", f"missing: the row has only {sorted(row)}", None, fix)
            empty = next((c for c in COLUMNS if c in row and not given), None)
            if empty is not None:
                raise DataError(f"{where}[{empty!r}]", "None", "a sound, or a series", "drop such rows")
            odd = next((c for c in row if c not in (*LABEL_COLUMNS, "adapter", "offset")), "")
            what = "both audio and series" if given else f"no sound: the columns are {sorted(row)}"
            fix = SAMPLES if "array" in row or "raw" in row else did_you_mean(odd, COLUMNS)
            raise DataError(where, what, "one column 'audio' or 'series'", fix)
        if given[0] == "series":
            return series_of(row["series"], f"{where}['series']")
        wave, rate = read_audio(row["audio"], f"{where}['audio']")
        return resampled(wave, rate, self.rate, f"{where}['audio']")


def _offset(row: Mapping[str, Any], where: str) -> int | None:
    value = row.get("offset")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DataError(f"{where}['offset']", f"{value!r}", "a whole number of samples, from 0")
    return int(value)


def layout_of(config: ReprogramConfig) -> AudioLayout:
    """The layout of a program from its config, resolved."""
    labels = tuple(config.labels) if config.labels is not None else None
    return AudioLayout(config.canvas, labels, config.problem_type, config.mapping)


_EXPECTED = 'a path, bytes, or {"array": ..., "sampling_rate": ...}'


def read_audio(value: Any, where: str) -> tuple[np.ndarray, int]:
    """Sound from what a row may hold: ((n,) float32 in plain amplitude, samples per second). Channels are averaged.

    Raises:
        DataError: no sound in it, or NaN, or whole numbers of 16 bits that call themselves float.
        ConfigError: soundfile is missing.
    """
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            if value.get("sampling_rate") is None:
                raise DataError(where, f"no sampling_rate: its keys are {sorted(value)}", _EXPECTED, SAMPLES)
            return _checked(value["array"], where), _rate(value["sampling_rate"], where)
        found = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if found is None:
            raise DataError(where, f"no sound: its keys are {sorted(value)}", _EXPECTED, SAMPLES)
        value = found
    if isinstance(value, bytes | bytearray):
        source: Any = io.BytesIO(value)
    elif isinstance(value, str | os.PathLike):
        source = os.fspath(value)
        if not os.path.isfile(source):
            fix = None if os.path.splitext(source)[1] else "texts are for a program whose base reads"
            raise DataError(where, f"{source!r} is no file"[:160], "a path to an audio file", fix)
    else:
        fix = "of a datasets column: cast_column('audio', Audio(decode=False))"
        bare = isinstance(value, list | tuple | np.ndarray | torch.Tensor)
        what = f"{str(value)[:60]!r} is a {type(value).__name__}"
        raise DataError(where, what, _EXPECTED, SAMPLES if bare else fix)
    return _from_file(source, where)


SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff")


def sounds_in(folder: str | os.PathLike) -> list[dict[str, str]]:
    """Rows of a folder of sounds, in the order of their paths: `{"audio": path, "label": name of the sub-folder}`.

    `datasets`' own reader of such folders needs torchcodec. Sounds in the folder itself have no label.
    """
    root = Path(folder)
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SOUNDS)
    return [{"audio": str(p), **({"label": p.parent.name} if p.parent != root else {})} for p in found]


def _from_file(source: Any, where: str) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError("soundfile", f"not usable ({first_line(error)})", "soundfile", TORCHAUDIO) from error
    try:
        wave, rate = soundfile.read(source, dtype="float32", always_2d=True)  # (n, channels)
    except (RuntimeError, OSError) as error:
        shown = source if isinstance(source, str) else "these bytes"
        raise DataError(where, f"{shown!r} is no sound ({first_line(error)})", "wav, flac, ogg or mp3") from error
    if not len(wave):
        shown = source if isinstance(source, str) else "these bytes"
        raise DataError(where, f"{shown!r} is empty", "at least one sample", "drop such rows")
    return _checked(wave, where), int(rate)


def _rate(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 10**7:
        raise DataError(where, f"sampling_rate {value!r}", "the samples per second of the array")
    return int(value)


def _checked(array: Any, where: str) -> np.ndarray:
    """(n,) float32 from an array of one or several channels."""
    try:
        found = np.asarray(array)
    except ValueError as error:
        raise DataError(where, f"no array ({first_line(error)})", "numbers of one clip") from error
    if found.dtype.kind not in "iuf" or found.ndim not in (1, 2):
        raise DataError(where, f"an array of {found.dtype} {found.shape}", "numbers, (n,) or (n, channels)")
    if found.dtype.kind in "iu":
        middle = 128.0 if found.dtype == np.uint8 else 0.0
        found = (found.astype(np.float64) - middle) / (float(np.iinfo(found.dtype).max) - middle + 1)
    wave = found.astype(np.float32)
    if wave.ndim == 2 and wave.size:
        wave = wave.mean(1 if wave.shape[0] >= wave.shape[1] else 0)
    if not wave.size:
        raise DataError(where, "empty", "at least one sample", "drop such rows")
    if not np.isfinite(wave).all():
        raise DataError(where, f"{int((~np.isfinite(wave)).sum())} samples are NaN or infinite", "finite samples")
    peak = float(np.abs(wave).max())
    if peak > 128:  # loud floats go a little above 1; 16-bit numbers go to 32768
        what = f"amplitude up to {peak:.0f}: 16-bit numbers that call themselves {found.dtype}"
        raise DataError(where, what, "amplitude about 1", "divide by 32768, or give the int16 array")
    return wave


def resampled(wave: np.ndarray, rate: int, wanted: int, where: str) -> np.ndarray:
    """The wave at another rate, by torchaudio."""
    if rate == wanted:
        return wave
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError, RuntimeError) as error:
        what = f"at {rate} Hz, the base hears {wanted}, and torchaudio is not usable ({first_line(error)})"
        raise DataError(where, what, f"audio at {wanted}", TORCHAUDIO) from error
    return resample(torch.from_numpy(wave), rate, wanted).numpy()


def series_of(value: Any, where: str) -> np.ndarray:
    """(n,) float32 from a series of numbers.

    Raises:
        DataError: no numbers, gaps (NaN), or all of one value: it would say nothing.
    """
    try:
        found = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(where, f"no series ({first_line(error)})", "a list of numbers") from error
    if found.ndim != 1 or not found.size:
        raise DataError(where, f"numbers of shape {found.shape}", "one series, (n,)", "one row per channel")
    gaps = int((~np.isfinite(found)).sum())
    if gaps:
        raise DataError(where, f"{gaps} of {found.size} numbers are missing", "a series without gaps", "interpolate")
    if found.size > 1 and math.isclose(float(found.min()), float(found.max())):
        raise DataError(where, f"constant at {float(found[0]):g}", "a series that varies", "drop such rows")
    return found
