"""The benchmark of a step on speech models, run once on a tiny Moonshine; what it counts is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks import speed_sound

from hf_reprogram.testing.audio import tiny_audio


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> speed_sound.Heard:
    found = tiny_audio("moonshine-seq2seq")
    monkeypatch.setattr(speed_sound, "source", lambda name: found)
    return replace(speed_sound.BASES[0], name="tiny moonshine")


def test_a_step_keeps_what_the_bare_loop_keeps(heard: speed_sound.Heard) -> None:
    rows = {(row.method, row.metric): row for row in speed_sound.step(heard, rounds=1)}
    assert {"step_ratio_to_floor", "saved_bytes_ratio_to_floor"} <= {metric for _, metric in rows}
    batch = speed_sound.BATCH * speed_sound.SECOND["samples"] * 4  # bytes of the waves that enter
    assert rows["ours", "saved_bytes_ratio_to_floor"].value < 1.1, f"more than the {batch:,} bytes of a batch"


def test_maps_are_fitted_from_features_that_are_computed_once(
    heard: speed_sound.Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_sound, "FITS", 2)
    monkeypatch.setattr(speed_sound, "FIT_CLIPS", 40)
    metrics = [row.metric for row in speed_sound.mapping_fits(heard, rounds=1)]
    assert metrics == ["mapping_fits_ratio_to_floor", "cpu_seconds"]
