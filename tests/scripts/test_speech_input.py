"""The benchmark of programs of sound: what a channel does to a clip, and what the table says of a program."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from benchmarks import speech_input
from benchmarks.intervals import kept
from benchmarks.report import Row
from benchmarks.speech_channels import CLEAN, RATE, SAMPLES, Channel, band, equaliser, low_pass, shaped

from scripts import make_docs


CLOCK = np.arange(SAMPLES) / RATE


def row(wave: np.ndarray) -> dict:
    return {"audio": {"array": wave.astype(np.float32), "sampling_rate": RATE}, "label": "yes"}


def level(wave: np.ndarray) -> float:
    return float(np.sqrt(np.square(wave).mean()))


def heard(channel: Channel, wave: np.ndarray, seed: int = 0) -> np.ndarray:
    return channel.through([row(wave)], seed)[0]["audio"]["array"]


@pytest.mark.parametrize(
    ("gain", "hertz", "factor"),
    [
        (low_pass(500, 4), 500, 2**-0.5),  # 1 / sqrt(1 + 1)
        (low_pass(500, 4), 1000, 257**-0.5),  # 1 / sqrt(1 + 2^8): 24 dB an octave
        (low_pass(500, 1), 1000, 5**-0.5),
        (band(300, 3400, 8), 150, (1 + 2**16) ** -0.5),
        (band(300, 3400, 8), 1000, 1.0),
        (band(300, 3400, 8), 6800, (1 + 2**16) ** -0.5),
    ],
)
def test_a_filter_weakens_a_tone_by_its_gain_and_does_not_delay_it(gain, hertz: float, factor: float):
    tone = np.sin(2 * np.pi * hertz * CLOCK)
    inner = slice(4000, 12000)  # the tone begins and ends, the filter hears silence there
    assert shaped(tone, gain)[inner] == pytest.approx(factor * tone[inner], abs=3e-4)


def test_a_filter_does_not_carry_the_end_of_a_clip_to_its_beginning():
    click = np.zeros(SAMPLES)
    click[-1] = 1.0
    assert abs(shaped(click, low_pass(500, 4))[:8000]).max() < 1e-6


def test_a_clip_fills_the_second_and_a_clean_one_stays_as_it_was():
    wave = np.array([0.5, -0.25])
    assert heard(CLEAN, wave).tolist() == [0.5, -0.25, *[0.0] * (SAMPLES - 2)]
    assert CLEAN.through([row(wave)])[0]["label"] == "yes" and "offset" not in CLEAN.through([row(wave)])[0]
    assert len(heard(CLEAN, np.ones(20000))) == SAMPLES


def test_noise_lies_so_many_decibels_under_the_clip():
    tone = np.sin(2 * np.pi * 440 * CLOCK)
    added = heard(Channel("noisy", noise=20), tone) - tone
    assert level(added) == pytest.approx(0.1 * level(tone), rel=1e-4)
    low = heard(Channel("rumble", noise=20, colour=low_pass(300, 8)), tone) - tone
    assert level(low) == pytest.approx(0.1 * level(tone), rel=1e-4)
    assert np.abs(np.fft.rfft(low))[1000:].max() < 1e-2 * np.abs(np.fft.rfft(low))[:300].max()


def test_noise_is_seeded_and_differs_from_clip_to_clip():
    channel, waves = Channel("noisy", noise=20), [row(np.sin(2 * np.pi * 440 * CLOCK))] * 2
    first, second = (r["audio"]["array"] for r in channel.through(waves, 3))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, channel.through(waves, 3)[0]["audio"]["array"])
    assert not np.array_equal(first, channel.through(waves, 4)[0]["audio"]["array"])


def test_a_hum_repeats_every_fiftieth_of_a_second_from_the_offset_that_the_row_tells():
    tone = np.sin(2 * np.pi * 440 * CLOCK)
    found = Channel("hum", hum=(2.0, 0.5)).through([row(tone)])[0]
    hum = found["audio"]["array"] - tone
    assert hum[320:] == pytest.approx(hum[:-320], abs=1e-5)
    clock = (found["offset"] + np.arange(SAMPLES)) / RATE
    wanted = 2.0 * np.sin(2 * np.pi * 50 * clock + 1) + 0.5 * np.sin(2 * np.pi * 100 * clock + 2)
    assert hum == pytest.approx(level(tone) * wanted, abs=1e-5)


def test_an_equaliser_undoes_a_filter():
    generator = np.random.default_rng(0)
    clips = [generator.standard_normal(SAMPLES) for _ in range(8)]
    dull = Channel("dull", low_pass(1000, 1)).through([row(c) for c in clips[:4]])
    found = equaliser(dull, [row(c) for c in clips[4:]]).gain(np.array([500.0, 1000.0, 2000.0, 4000.0]))
    assert found / found[0] == pytest.approx(np.sqrt(np.array([1.25, 2, 5, 17]) / 1.25), rel=0.15)


class TestTable:
    """What the summary says of cells."""

    def told(self, **marks: int) -> dict:
        cells = [kept("t", s, m, [i < n for i in range(100)]) for m, n in marks.items() for s in range(3)]
        return {(r.method, r.metric): r for r in speech_input.summary(cells)}

    def compared(self, method: str, told: dict) -> dict[str, float]:
        return {m.partition("_over:")[2]: row.value for (own, m), row in told.items() if own == method and ":" in m}

    def test_a_program_is_compared_with_the_map_alone_and_the_controls(self):
        told = self.told(**{
            "ours:filter": 80, "ours:shift": 62, "ours:equaliser": 79, "map_only": 60, "probe": 50,
            "classical:equaliser": 85, "random_source:filter": 10, "ours:filter + probe": 0,
        })  # fmt: skip
        assert self.compared("ours:filter", told) == {
            "map_only": 20, "probe": 30, "classical:equaliser": -5, "ours:equaliser": 1, "random_source:filter": 70,
        }  # fmt: skip
        assert told["ours:filter", "accuracy"].note.startswith("sd 0.0; seeds 80.0")

    def test_a_ridge_through_a_program_is_compared_with_ridges(self):
        told = self.told(**{"ours:x + probe": 70, "map_only": 60, "probe": 50, "classical:equaliser + probe": 75})
        assert self.compared("ours:x + probe", told) == {"probe": 20, "classical:equaliser + probe": -5}

    def test_a_program_of_english_is_compared_with_the_map_alone(self):
        told = self.told(**{"ours:x of English": 70, "ours:equaliser of English": 80, "map_only": 60})
        assert self.compared("ours:x of English", told) == {"map_only": 10, "ours:equaliser of English": -10}
        assert self.compared("ours:equaliser of English", told) == {"map_only": 20}


def test_the_readmes_lines_tell_what_is_measured_and_leave_the_rest_out():
    cells = [
        Row("gsc12, ten words, muffled", "ours:filter", "accuracy", 77.52),
        Row("arabic-40, 5 per class, muffled", "ours:filter of English", "accuracy", 81.0),
        Row("gsc12, ten words, muffled", "ours:filter", "accuracy_gain_over:map_only", 16.0, 12.0, 20.04),
        Row(
            "arabic-40, 2 per class, muffled", "ours:filter of English", "accuracy_gain_over:map_only", -1.0, -3.0, 1.0
        ),
    ]
    rows = {(r.task, r.method, r.metric): asdict(r) for r in cells}
    assert make_docs._heard(rows, "a filter", "ours:filter", "muffled") == "| a filter | 77.5 |  |  |  | 81.0 |"
    assert make_docs._heard(rows, "a shift", "ours:shift", "muffled") is None
    told = make_docs._heard_gains(rows, "ours:filter", "a filter")
    assert told == (
        "- a filter: over the words alone +16.0 (+12.0 to +20.0); "
        "Arabic, 2 of each, over no program -1.0 (-3.0 to +1.0)."
    )
    assert make_docs._heard_gains(rows, "ours:shift", "a shift") is None


@pytest.mark.slow
def test_a_quick_run_goes_through(tmp_path: Path, shared: Path, moonshine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speech_input, "SCRATCH", tmp_path)
    assert speech_input.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "speech_input.json").read_text())["rows"]
    methods = {row["method"] for row in found}
    assert {
        "ours:equaliser",
        "ours:filter",
        "ours:shift + probe",
        "ours:network of English",
        "ours:frames and map",
    } < methods
    assert {"majority", "map_only", "probe", "classical:equaliser", "random_source:equaliser and shift"} < methods
