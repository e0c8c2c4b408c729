"""The speech benchmarks: which clips are which, who is drawn, and what their tables say."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks import speech_commands, speech_methods, speech_program
from benchmarks.intervals import kept
from benchmarks.speech_data import ARABIC, TEN, Task, draw, read


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Nine clips of 100 samples in one file, 10 zeros behind each; each holds a value of its own."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    parts = [np.concatenate([np.full(100, (i + 1) / 10), np.zeros(10)]) for i in range(9)]
    soundfile.write(
        folder / "train.ogg", np.concatenate(parts).astype(np.float32), 16000, format="WAV", subtype="FLOAT"
    )
    with open(folder / "index.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["split", "start", "length", "label"])
        lines.writerow(["test", 0, 100, "other split"])
        lines.writerows(["train", 110 * i, 100, "abc"[i % 3]] for i in range(9))
    return tmp_path


def test_clips_are_cut_where_the_index_says(clips: Path):
    rows = read(Task("numbers", "numbers"), "train", clips)
    assert [row["label"] for row in rows] == list("abcabcabc")
    assert [row["audio"]["array"].tolist() for row in rows] == [pytest.approx([(i + 1) / 10] * 100) for i in range(9)]
    assert {row["audio"]["sampling_rate"] for row in rows} == {16000}


def test_a_band_is_taken_away_by_a_lower_rate(clips: Path):
    audio = read(Task("numbers", "numbers", rate=8000), "train", clips)[0]["audio"]
    assert audio["sampling_rate"] == 8000 and len(audio["array"]) == 50


def test_words_that_do_not_count_are_left_out(clips: Path):
    assert {row["label"] for row in read(Task("numbers", "numbers", words=("a", "c")), "train", clips)} == {"a", "c"}


def test_a_validation_split_of_training_clips_shares_none_with_them(clips: Path):
    task = Task("numbers", "numbers", held_out=3)
    levels = {
        split: {float(row["audio"]["array"][0]) for row in read(task, split, clips)}
        for split in ("train", "validation")
    }
    assert len(levels["validation"]) == 3 and len(levels["train"]) == 6
    assert not levels["train"] & levels["validation"]


def test_a_draw_is_seeded_and_balanced_and_a_smaller_one_is_part_of_it():
    labels = list("abab" * 10)
    few = draw(labels, 5, 3)
    assert Counter(labels[i] for i in few) == {"a": 5, "b": 5} and len(set(few)) == 10
    assert few == draw(labels, 5, 3) != draw(labels, 5, 4)
    assert set(draw(labels, 2, 3)) < set(few)


def test_the_commonest_label():
    assert speech_methods.commonest(["a", "b", "b"], ["b", "a", "b", "c"]).tolist() == [1, 0, 1, 0]


class TestTable:
    """What speech_commands.py says of its cells."""

    def told(self, *cells) -> dict:
        return {(row.task, row.method, row.metric): row for row in speech_commands.summary(cells)}

    def test_a_bar_is_met_or_not(self):
        for right, word in (
            ([True] * 24 + [False], "bar >= 96: met"),
            ([True] * 23 + [False] * 2, "bar >= 96: NOT met"),
        ):
            told = self.told(kept(ARABIC.name, 0, "map_only:encoder mean", right, "validation 97.1"))
            row = told[ARABIC.name, "map_only:encoder mean", "accuracy"]
            assert row.note == f"{word}; validation 97.1" and row.low <= row.value <= row.high

    def test_a_map_of_one_draw_stands_beside_every_random_source(self):
        told = self.told(
            kept("task", 0, "map_only:x", [True, True, True, False]),
            *(kept("task", seed, "random_source:x", [seed == 1, False, False, False]) for seed in range(3)),
        )
        gain = told["task", "map_only:x", "accuracy_gain_over:random_source:x"]
        assert (gain.value, gain.n) == (pytest.approx(75 - 25 / 3), 3)

    def test_draws_of_few_clips_are_paired_with_the_control_of_the_same_draw(self):
        task = f"{ARABIC.name}, 1 per class"
        told = self.told(
            *(kept(task, seed, "map_only:x", [True, True]) for seed in range(2)),
            *(kept(task, seed, "classical:log-mel", [seed == 0, False]) for seed in range(2)),
        )
        assert told[task, "map_only:x", "accuracy_gain_over:classical:log-mel"].value == 75
        assert told[task, "classical:log-mel", "accuracy"].note == "draws 50.0, 0.0"

    def test_calibrated_words_are_compared_with_raw_ones(self):
        told = self.told(kept(TEN.name, 0, "calibrated", [True]), kept(TEN.name, 0, "zero_shot", [False]))
        assert told[TEN.name, "calibrated", "accuracy_gain_over:zero_shot"].value == 100


def test_the_programs_table_says_what_the_sound_adds_to_its_own_map():
    marks = {"ours": 96, "map_only": 80, "random_source:ours": 90, "random_source:map_only": 40}
    cells = [kept("t", s, m, [i < n for i in range(100)]) for m, n in marks.items() for s in range(3)]
    told = {(row.method, row.metric): row for row in speech_program.summary(cells)}
    assert told["ours", "accuracy"].note.endswith("bar >= 93: met")
    gain = told["ours", "accuracy_gain_over:map_only"]
    assert gain.value == 16 and gain.note.endswith("bar >= 8: met")
    assert told["random_source:ours", "accuracy_gain_over:random_source:map_only"].value == 50
    assert "bar" not in told["ours", "accuracy_gain_over:random_source:map_only"].note
    assert told["ours", "accuracy_gain_over:random_source:ours"].value == 6


@pytest.mark.slow
def test_a_quick_run_goes_through(
    tmp_path: Path, shared: Path, moonshine: Path, whisper: Path, attention_rnn: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(speech_commands, "SCRATCH", tmp_path)
    assert speech_commands.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "speech_commands.json").read_text())["rows"]
    methods = {row["method"] for row in found if row["task"] == ARABIC.name}
    assert {"map_only:token logits", "random_source:encoder mean", "classical:log-mel", "majority"} < methods


@pytest.mark.slow
def test_a_quick_run_of_the_program_goes_through(
    tmp_path: Path, shared: Path, attention_rnn: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(speech_program, "SCRATCH", tmp_path)
    assert speech_program.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "speech_program.json").read_text())["rows"]
    assert {"ours", "map_only", "random_source:ours"} < {row["method"] for row in found}


def test_a_trial_takes_few_clips_of_four_labels(clips: Path):
    plan = replace(speech_commands.Plan(), clips=2, data=clips)
    assert Counter(row["label"] for row in plan.rows(Task("numbers", "numbers"), "train")) == {"a": 2, "b": 2, "c": 2}
