"""Rows of sound and series: everything a row may hold, and everything that is refused."""

from __future__ import annotations

import builtins
import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch

from hf_reprogram.canvas import CanvasConfig
from hf_reprogram.data.audio import AudioCollator, AudioLayout, read_audio, resampled, series_of
from hf_reprogram.errors import ConfigError, DataError, UsageError


RATE = 16000
SAMPLES = r"samples go with their rate: \{\"audio\": \{\"array\": ..., \"sampling_rate\": 16000\}\}"
WAVE = (0.5 * np.sin(np.arange(100) / 5)).astype(np.float32)


def _collator(names: list[str] | None = None, **canvas: Any) -> AudioCollator:
    layout = AudioLayout(CanvasConfig(**{"samples": 200, **canvas}), ("no", "yes"))
    return AudioCollator(RATE, {"default": layout}, "default", names)


def _file(folder: Path, wave: np.ndarray = WAVE, rate: int = RATE, name: str = "clip.wav") -> str:
    soundfile.write(folder / name, wave, rate, subtype="FLOAT" if name.endswith("wav") else None)
    return str(folder / name)


class TestWhatARowMayHold:
    def test_a_path_bytes_an_array_and_a_datasets_column_are_one(self, tmp_path: Path) -> None:
        path = _file(tmp_path)
        whole = Path(path).read_bytes()
        column = {"bytes": whole, "path": None}
        for given in (path, Path(path), whole, {"array": WAVE, "sampling_rate": RATE}, column, {"path": path}):
            wave, rate = read_audio(given, "audio")
            assert rate == RATE and wave.dtype == np.float32
            assert np.array_equal(wave, WAVE), type(given)

    def test_a_datasets_audio_column_without_torchcodec(self, tmp_path: Path) -> None:
        made = datasets.Dataset.from_dict({"audio": [_file(tmp_path)], "label": ["yes"]})
        made = made.cast_column("audio", datasets.Audio(decode=False))
        batch = _collator()(made)
        assert torch.equal(batch["input_values"][0, :100], torch.from_numpy(WAVE))
        assert batch["labels"].tolist() == [1]

    def test_16_bit_arrays_are_scaled_and_stereo_is_averaged(self) -> None:
        wave, _ = read_audio({"array": np.array([16384, -32768], dtype=np.int16), "sampling_rate": RATE}, "audio")
        assert wave.tolist() == [0.5, -1.0]
        for array in (np.stack([WAVE, -WAVE / 2], 1), np.stack([WAVE, -WAVE / 2])):  # (n, 2) and (2, n)
            wave, _ = read_audio({"array": array, "sampling_rate": RATE}, "audio")
            assert np.allclose(wave, WAVE / 4)

    def test_another_rate_is_resampled(self) -> None:
        tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
        made = resampled(tone, 8000, RATE, "audio")
        assert len(made) == 16000
        spectrum = np.abs(np.fft.rfft(made))
        assert spectrum.argmax() == 440

    def test_a_series(self) -> None:
        batch = _collator(samples=16, place="copies", copies=2)([{"series": [1, 2, 3], "label": "no"}])
        assert batch["input_values"][0, :9].tolist() == [1, 2, 3, 0, 0, 0, 1, 2, 3]
        assert batch["signal_mask"][0].int().tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1] + [0] * 7


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("/no/such.wav", r"'/no/such.wav' is no file"),
            (b"RIFFnonsense", "is no sound"),
            ({"array": [], "sampling_rate": RATE}, "empty"),
            ({"array": [0.1, float("nan")], "sampling_rate": RATE}, "1 samples are NaN"),
            ({"array": [0.1, 0.2]}, "no sampling_rate: its keys are"),
            ({"array": [0.1], "sampling_rate": 0}, "sampling_rate 0"),
            ({"array": [1000.0, -3e4], "sampling_rate": RATE}, "16-bit numbers that call themselves float"),
            ({"array": [["a"]], "sampling_rate": RATE}, "an array of"),
            ({"array": np.zeros((2, 2, 2)), "sampling_rate": RATE}, r"\(2, 2, 2\)"),
            (3.5, "is a float"),
        ],
    )
    def test_no_sound(self, value: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_audio(value, "rows[0]['audio']")

    def test_a_file_without_samples(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
        with pytest.raises(DataError, match="zero.wav' is empty"):
            read_audio(str(tmp_path / "zero.wav"), "rows[0]['audio']")

    def test_a_bare_array_is_told_in_a_line_how_to_write_a_row(self) -> None:
        with pytest.raises(DataError, match=r'Expected a path, \{"audio"') as told:
            _collator()([[0.5] * 16000])
        assert len(str(told.value)) < 250

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.wav").write_text("not a wav")
        with pytest.raises(DataError, match=r"rows\[0\]\['audio'\].*x.wav' is no sound"):
            read_audio(str(tmp_path / "x.wav"), "rows[0]['audio']")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([1.0, None, 3.0], "1 of 3 numbers are missing"),
            ([2.0, 2.0, 2.0], "constant at 2"),
            ([], "shape"),
            ([[1.0, 2.0]], "one row per channel"),
            (["a"], "no series"),
        ],
    )
    def test_no_series(self, value: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            series_of(value, "rows[0]['series']")

    @pytest.mark.parametrize(
        ("row", "kind", "message"),
        [
            ({"label": "yes"}, UsageError, "remove_unused_columns=False"),
            ({"text": "a", "label": "yes"}, DataError, "no sound: the columns are"),
            ({"audio": b"", "series": [1, 2]}, DataError, "both audio and series"),
            ({"audio": None}, DataError, r"rows\[0\]\['audio'\]: None. Expected a sound.*drop such rows"),
            ({"series": None, "label": "yes"}, DataError, r"rows\[0\]\['series'\]: None"),
            ({"audio": "so good"}, DataError, "'so good' is no file.*texts are for a program whose base reads"),
            ({"array": [0.1], "sampling_rate": 16000}, DataError, f"no sound.*{SAMPLES}"),
            ({"audio": {"array": [0.1]}}, DataError, rf"no sampling_rate: its keys are \['array'\].*{SAMPLES}"),
            ({"audio": {"raw": [0.1]}}, DataError, rf"no sound: its keys are \['raw'\].*{SAMPLES}"),
            ({"audio": np.zeros(9)}, DataError, f"is a ndarray.*{SAMPLES}"),
            ([0.1, 0.2], DataError, f"is a list.*{SAMPLES}"),
            (0.5, DataError, f"0.5 is a float.*{SAMPLES}"),
            (b"RIFF", DataError, 'is a bytes.*Fix: {"audio": ...} round the bytes'),
            ({"series": [1, 2], "label": "maybe"}, DataError, "unknown label 'maybe'"),
            ({"series": [1, 2], "adapter": "x"}, DataError, "unknown program 'x'"),
            ({"series": [0, 1], "label": 1}, DataError, "nothing says which label"),
            ({"series": list(range(300))}, DataError, "longer than the canvas of 200"),
        ],
    )
    def test_rows(self, row: Any, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            _collator()([row])

    def test_missing_soundfile_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = _file(tmp_path)
        _without(monkeypatch, "soundfile")
        with pytest.raises(ConfigError, match=r"soundfile.*pip install 'hf-reprogram\[audio\]'"):
            read_audio(path, "audio")

    def test_a_broken_torchaudio_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _without(monkeypatch, "torchaudio")
        with pytest.raises(DataError, match=r"at 8000 Hz, the base hears 16000.*pip install 'hf-reprogram\[audio\]'"):
            resampled(WAVE, 8000, RATE, "audio")
        assert resampled(WAVE, RATE, RATE, "audio") is WAVE


def _without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if importing a package failed the way a library of another CUDA build does."""
    real = builtins.__import__

    def fails(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.split(".")[0] == name:
            raise OSError("undefined symbol")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fails)


class TestBatches:
    def test_columns_and_their_types(self) -> None:
        batch = _collator()([{"audio": {"array": WAVE, "sampling_rate": RATE}, "label": n} for n in ("yes", "no")])
        assert batch["input_values"].shape == batch["signal_mask"].shape == (2, 200)
        assert batch["input_values"].dtype == torch.float32 and batch["signal_mask"].dtype == torch.bool
        assert batch["labels"].tolist() == [1, 0]

    def test_integer_labels_by_the_names_of_the_dataset(self) -> None:
        assert _collator(names=["yes", "no"])([{"series": [1, 2], "label": 0}])["labels"].tolist() == [1]

    def test_labels_on_all_rows_or_none(self) -> None:
        with pytest.raises(DataError, match=r"rows\[1\]\['label'\]: missing"):
            _collator()([{"series": [1, 2], "label": "no"}, {"series": [1, 2]}])

    def test_it_travels_to_workers(self) -> None:
        again = pickle.loads(pickle.dumps(_collator()))
        assert again([{"series": [1, 2]}])["input_values"].shape == (1, 200)

    def test_a_clips_digest_is_of_its_signal_alone(self) -> None:
        rows = [{"series": [1, 2], "label": "no"}, {"series": [1, 2], "label": "yes"}, {"series": [1, 3]}]
        keys = [clip.key() for clip in _collator().lay_out(rows)]
        assert keys[0] == keys[1] != keys[2]

    def test_flac_in_memory(self) -> None:
        held = io.BytesIO()
        soundfile.write(held, WAVE, RATE, format="FLAC")
        wave, _ = read_audio(held.getvalue(), "audio")
        assert np.abs(wave - WAVE).max() < 1e-4
