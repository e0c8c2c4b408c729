"""The canvas: the fixed stretch of samples on which a clip or a series is laid out before any program sees it.

It is to sound what the template is to text: plain data that the collator follows, and nothing in it learns. A fixed
canvas keeps training, evaluation and serving alike: many speech models hear their own padding (S10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .errors import ConfigError, DataError
from .registry import Options, option


PLACES = ("start", "centre", "copies", "contiguous", "am", "fm")


@dataclass
class CanvasConfig(Options):
    """How a signal is laid out.

    Example:

        >>> CanvasConfig(samples=16000, place="copies", copies=8).crop
        'error'
    """

    kind: ClassVar[str] = "canvas"
    type: str = field(default="canvas", init=False)
    samples: int | None = option(
        None, "Length in samples; None is the base's own fixed length, or one second.", low=16, high=2_000_000
    )
    place: str = option(
        "start",
        "Where the signal sits: start, centre, copies (so many, evenly spread), contiguous (back to back), or as the "
        "envelope (am) or the pitch (fm) of a carrier that fills the canvas.",
        choices=PLACES,
    )
    copies: int = option(1, "How many times, for place='copies'; never more than fit.", low=1, high=10_000)
    stretch: int | None = option(
        None, "Stretch the signal to so many samples first (linear interpolation); None leaves it.", low=2
    )
    crop: str = option(
        "error", "What to do with a signal longer than the canvas.", choices=("error", "start", "centre")
    )
    level: str = option(
        "none", "Amplitude of the canvas: as it comes, largest value 1 (peak), or RMS of `rms`.",
        choices=("none", "peak", "rms"),
    )  # fmt: skip
    rms: float = option(0.1, "That RMS.", low=1e-4, high=10.0)
    carrier: float = option(400.0, "Hertz of the carrier, for am and fm.", low=1.0, high=8000.0)
    depth: float = option(0.3, "How far a signal of 1 moves the envelope; for fm in octaves.", low=0.0, high=10.0)

    def shown(self) -> str:
        """What was chosen, in a line.

        Example:

            >>> CanvasConfig(samples=16000, place="copies", copies=8).shown()
            '16,000 samples, place copies, copies 8'
        """
        plain = CanvasConfig()
        chosen = {k: v for k, v in self.to_dict().items() if k not in ("type", "samples") and v != getattr(plain, k)}
        length = f"{self.samples:,} samples" if self.samples else "the base's own length"
        return ", ".join([length, *(f"{name} {value}" for name, value in chosen.items())])

    def validate(self) -> None:
        super().validate()
        if self.copies > 1 and self.place != "copies":
            raise ConfigError("CanvasConfig.copies", f"{self.copies} with place={self.place!r}", "place='copies'")
        if self.samples is not None and self.stretch is not None and self.stretch > self.samples:
            raise ConfigError("CanvasConfig.stretch", f"{self.stretch}", f"at most the canvas of {self.samples}")


def lay_out(
    signal: np.ndarray, canvas: CanvasConfig, rate: int, where: str = "signal"
) -> tuple[np.ndarray, np.ndarray]:
    """A signal on its canvas.

    Args:
        signal: (n,) float.
        canvas: with `samples`.
        rate: samples per second, for carriers.
        where: how errors name the signal.

    Returns:
        (samples,) float32, and (samples,) bool: where the signal sits.

    Raises:
        DataError: a signal that is longer than the canvas (`crop="error"`), or that says nothing (all zeros).

    Example:

        >>> wave, here = lay_out(np.array([1.0, 2.0]), CanvasConfig(samples=16, place="copies", copies=3), 16000)
        >>> wave.tolist()
        [1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    size = canvas.samples
    if not signal.any():
        raise DataError(where, "only zeros", "a signal", "drop such rows")
    if canvas.stretch is not None:
        signal = _stretched(signal, canvas.stretch)
    elif canvas.place in ("am", "fm"):
        signal = _stretched(signal, size)
    if len(signal) > size:
        signal = _cropped(signal, canvas, where)
    wave, here = _PLACED[canvas.place](signal, canvas, size, rate)
    if canvas.level == "peak":
        wave = wave / np.abs(wave).max()
    elif canvas.level == "rms":
        wave = wave * (canvas.rms / np.sqrt(np.square(wave).mean()))
    return wave.astype(np.float32), here


def _stretched(signal: np.ndarray, length: int) -> np.ndarray:
    if len(signal) == 1:
        return np.repeat(signal, length)
    return np.interp(np.linspace(0, len(signal) - 1, length), np.arange(len(signal)), signal)


def _cropped(signal: np.ndarray, canvas: CanvasConfig, where: str) -> np.ndarray:
    size = canvas.samples
    if canvas.crop == "error":
        raise DataError(
            where,
            f"{len(signal)} samples, longer than the canvas of {size}",
            f"at most {size}",
            'CanvasConfig(samples=...) makes it longer; crop="start" or "centre" cuts the signal',
        )
    start = 0 if canvas.crop == "start" else (len(signal) - size) // 2
    return signal[start : start + size]


Placed = tuple[np.ndarray, np.ndarray]


def _at(signal: np.ndarray, starts: list[int], size: int) -> Placed:
    wave, here = np.zeros(size), np.zeros(size, dtype=bool)
    for start in starts:
        wave[start : start + len(signal)] = signal
        here[start : start + len(signal)] = True
    return wave, here


def _copies(signal: np.ndarray, canvas: CanvasConfig, size: int, rate: int) -> Placed:
    """m copies at s * step with step = floor(floor(S / n) / m) * n; m is clamped, or all copies would fall on 0."""
    fit = size // len(signal)
    copies = min(canvas.copies, fit)
    return _at(signal, [s * (fit // copies) * len(signal) for s in range(copies)], size)


def _contiguous(signal: np.ndarray, canvas: CanvasConfig, size: int, rate: int) -> Placed:
    return _at(signal, [s * len(signal) for s in range(size // len(signal))], size)


def _am(signal: np.ndarray, canvas: CanvasConfig, size: int, rate: int) -> Placed:
    carrier = np.sin(2 * np.pi * canvas.carrier * np.arange(len(signal)) / rate)
    return _at((1 + canvas.depth * signal) * carrier, [0], size)


def _fm(signal: np.ndarray, canvas: CanvasConfig, size: int, rate: int) -> Placed:
    turns = np.cumsum(canvas.carrier * 2.0 ** (canvas.depth * signal)) / rate
    return _at(np.sin(2 * np.pi * turns), [0], size)


_PLACED: dict[str, Callable[..., Placed]] = {
    "start": lambda signal, canvas, size, rate: _at(signal, [0], size),
    "centre": lambda signal, canvas, size, rate: _at(signal, [(size - len(signal)) // 2], size),
    "copies": _copies,
    "contiguous": _contiguous,
    "am": _am,
    "fm": _fm,
}


def as_canvas(value: Any, where: str) -> CanvasConfig | None:
    """A canvas from what a user may write: options, a dict of them, or None."""
    if value is None or isinstance(value, CanvasConfig):
        return value
    if not isinstance(value, dict):
        raise ConfigError(where, f"{value!r} is a {type(value).__name__}", "a CanvasConfig, or a dict of its options")
    return CanvasConfig(**{str(k): v for k, v in value.items() if k != "type"})
