"""Channels that a clip may have come through before anybody hears it: a filter, a hum, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from benchmarks.speech_data import Rows


RATE, SAMPLES = 16000, 16000  # every clip fills the canvas of a second, its silence at the end too
Gain = Callable[[np.ndarray], np.ndarray]  # hertz -> factor of the amplitude


def low_pass(edge: float, order: int) -> Gain:
    """The gain of a Butterworth filter, 6 dB an octave for each order: 1 / sqrt(1 + (f / edge)^(2 order))."""
    return lambda hertz: 1 / np.sqrt(1 + (hertz / edge) ** (2 * order))


def band(low: float, high: float, order: int) -> Gain:
    """The same at both ends: sqrt((f / low)^(2 order) / (1 + (f / low)^(2 order))) below."""

    def gain(hertz: np.ndarray) -> np.ndarray:
        ratio = (hertz / low) ** (2 * order)
        return np.sqrt(ratio / (1 + ratio)) * low_pass(high, order)(hertz)

    return gain


def shaped(wave: np.ndarray, gain: Gain) -> np.ndarray:
    """A wave through a filter without delay, zeros around it."""
    size = 2 * len(wave)
    spectrum = np.fft.rfft(wave, size) * gain(np.fft.rfftfreq(size, 1 / RATE))
    return np.fft.irfft(spectrum, size)[: len(wave)]


@dataclass(frozen=True)
class Channel:
    """What happens to a clip on its way: a filter, then a hum and noise.

    Args:
        name: in the results.
        gain: of the filter; None leaves the clip.
        hum: amplitudes of 50 Hz and its multiples, the clip's RMS being 1; a clip begins anywhere in it.
        noise: decibels of noise under the clip's RMS; None adds none.
        colour: the filter that the noise has passed; None leaves it white.
    """

    name: str
    gain: Gain | None = None
    hum: tuple[float, ...] = ()
    noise: float | None = None
    colour: Gain | None = None

    def through(self, rows: Rows, seed: int = 0) -> Rows:
        """The rows as they arrive; `offset` says where in the hum each one begins.

        Args:
            rows: at 16 kHz.
            seed: of noise and offsets; every clip has its own.
        """
        return [self._row(row, np.random.default_rng((seed, i))) for i, row in enumerate(rows)]

    def _row(self, row: dict, generator: np.random.Generator) -> dict:
        clip = row["audio"]["array"][:SAMPLES]
        wave = np.pad(clip, (0, SAMPLES - len(clip)))
        wave = wave if self.gain is None else shaped(wave, self.gain)
        level, offset = np.sqrt(np.square(wave).mean()), int(generator.integers(RATE))
        clock = (offset + np.arange(SAMPLES)) / RATE
        for i, amplitude in enumerate(self.hum, 1):
            wave = wave + level * amplitude * np.sin(2 * np.pi * 50 * i * clock + i)
        if self.noise is not None:
            noise = generator.standard_normal(SAMPLES)
            noise = noise if self.colour is None else shaped(noise, self.colour)
            wave = wave + level * 10 ** (-self.noise / 20) * noise / np.sqrt(np.square(noise).mean())
        audio = {"array": wave.astype(np.float32), "sampling_rate": RATE}
        return {**row, "audio": audio, **({"offset": offset} if self.hum else {})}


CLEAN = Channel("clean")
MUFFLED = Channel("muffled", low_pass(500, 4), noise=50)
BANDS = 128  # of an equaliser: 62.5 hertz each
LIMIT = 100.0  # its largest factor, 40 dB


def equaliser(heard: Rows, wanted: Rows) -> Channel:
    """The filter after which some clips have the mean spectrum of others, band by band.

    Args:
        heard: clips as they arrive.
        wanted: other clips, as they should sound.
    """
    ratio = np.sqrt(_spectrum(wanted) / _spectrum(heard)).clip(1 / LIMIT, LIMIT)  # (bands,)
    middles = (np.arange(BANDS) + 0.5) * RATE / 2 / BANDS
    return Channel("equalised", lambda hertz: np.exp(np.interp(hertz, middles, np.log(ratio))))


def _spectrum(rows: Rows) -> np.ndarray:
    """(bands,) mean power, every clip as loud as the others."""
    waves = np.stack([CLEAN.through([row])[0]["audio"]["array"] for row in rows]).astype(np.float64)
    power = np.abs(np.fft.rfft(waves)[:, :-1]) ** 2  # (rows, samples / 2)
    power /= power.sum(1, keepdims=True)
    bands = power[:, : power.shape[1] // BANDS * BANDS].reshape(len(rows), BANDS, -1)
    return bands.mean((0, 2)) + 1e-20
