"""The canvas: every placement by hand, what is cropped and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from hf_reprogram.canvas import PLACES, CanvasConfig, lay_out
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.sources import CrepeConfig, CrepeForAudioClassification
from hf_reprogram.sources.parts import feature_extractor
from hf_reprogram.testing import tiny


SIGNAL = np.array([1.0, -2.0, 3.0])


def _placed(signal: np.ndarray = SIGNAL, samples: int = 16, **options: object) -> tuple[list[float], list[int]]:
    wave, here = lay_out(np.asarray(signal), CanvasConfig(samples=samples, **options), 16000)
    return wave.tolist(), here.nonzero()[0].tolist()


def test_start_and_centre() -> None:
    assert _placed() == ([1.0, -2.0, 3.0] + [0.0] * 13, [0, 1, 2])
    assert _placed(place="centre") == ([0.0] * 6 + [1.0, -2.0, 3.0] + [0.0] * 7, [6, 7, 8])


def test_copies_stand_at_multiples_of_their_length() -> None:
    # floor(16 / 3) = 5 fit; two copies: step floor(5 / 2) * 3 = 6
    wave, here = _placed(place="copies", copies=2)
    assert here == [0, 1, 2, 6, 7, 8]
    assert wave[6:9] == [1.0, -2.0, 3.0]


def test_the_starts_of_the_paper() -> None:
    """S§7.1: a series of 500 in 16,000, 18 copies: step 500; 40 copies are 32."""
    for copies, count in ((18, 18), (40, 32)):
        wave, here = lay_out(np.arange(1, 501.0), CanvasConfig(samples=16000, place="copies", copies=copies), 16000)
        starts = np.nonzero(wave == 1.0)[0]
        assert len(starts) == count and here.sum() == 500 * count
        assert set(np.diff(starts)) == {500}


def test_more_copies_than_fit_do_not_add_up() -> None:
    """The released V2S code puts all on sample 0 then (S§1, 5)."""
    assert max(_placed(place="copies", copies=99)[0]) == 3.0


def test_contiguous_fills_the_canvas_with_whole_copies() -> None:
    wave, here = _placed(place="contiguous")
    assert wave == [1.0, -2.0, 3.0] * 5 + [0.0] and here == list(range(15))


def test_stretch_is_linear_interpolation() -> None:
    assert _placed([0.0, 4.0], stretch=5)[0][:6] == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0]
    assert _placed([2.0], stretch=3)[0][:4] == [2.0, 2.0, 2.0, 0.0]


def test_am_is_an_envelope_and_fm_a_pitch() -> None:
    flat, _ = _placed([1.0], samples=1600, place="am", carrier=100.0, depth=0.5)
    assert flat == pytest.approx(1.5 * np.sin(2 * np.pi * 100 * np.arange(1600) / 16000), abs=1e-6)
    octave, here = _placed([1.0], samples=1600, place="fm", carrier=100.0, depth=1.0)  # 200 Hz
    assert octave == pytest.approx(np.sin(2 * np.pi * 200 * np.arange(1, 1601) / 16000), abs=1e-5)
    assert len(here) == 1600


def test_level() -> None:
    assert _placed(level="peak")[0][:3] == pytest.approx([1 / 3, -2 / 3, 1.0])
    wave = np.array(_placed(level="rms", rms=0.1)[0])
    assert np.sqrt(np.square(wave).mean()) == pytest.approx(0.1)


def test_a_long_signal_is_refused_or_cropped_as_told() -> None:
    long = np.arange(1, 21.0)
    with pytest.raises(DataError, match=r"rows\[3\]: 20 samples, longer than the canvas of 16.*crop="):
        lay_out(long, CanvasConfig(samples=16), 16000, "rows[3]")
    assert _placed(long, crop="start")[0] == list(range(1, 17))
    assert _placed(long, crop="centre")[0] == list(range(3, 19))


def test_silence_is_refused() -> None:
    with pytest.raises(DataError, match="only zeros"):
        _placed([0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"place": "middle"}, "CanvasConfig.place: 'middle' is not a choice"),
        ({"copies": 3}, "CanvasConfig.copies: 3 with place='start'"),
        ({"samples": 100, "stretch": 200}, "CanvasConfig.stretch: 200"),
        ({"smaples": 100}, "CanvasConfig.smaples: no such option.*samples"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CanvasConfig(**options)


def test_it_is_part_of_the_config_and_survives_json() -> None:
    config = ReprogramConfig(canvas={"samples": 100, "place": "copies", "copies": 2}, labels=["a", "b"])
    assert config.canvas == CanvasConfig(samples=100, place="copies", copies=2)
    assert ReprogramConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"ReprogramConfig\.canvas: 'wide' is a str"):
        ReprogramConfig(canvas="wide")
    assert set(PLACES) == {"start", "centre", "copies", "contiguous", "am", "fm"}


class TestTheLengthThatABaseWasTrainedOn:
    """Source models say it (`input_samples`); those of transformers that have a fixed length refuse a longer one."""

    @staticmethod
    def _canvas(base: Any, samples: int | None) -> int:
        config = ReprogramConfig(
            mapping={"type": "linear", "pool": "mean", "solver": "gradient"}, labels=["a", "b"],
            canvas={"samples": samples},
        )  # fmt: skip
        return get_reprogram_model(base, config, feature_extractor(base.config)).peft_config["default"].canvas.samples

    def test_it_is_the_canvas_where_none_is_asked_for(self) -> None:
        base, _ = tiny("attentionrnn-classifier")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self._canvas(base, None) == self._canvas(base, base.config.input_samples) == 3200
            crepe = CrepeConfig(frame_samples=64, channels=(4, 6), first_kernel=16, kernel=8, num_labels=5)
            assert self._canvas(CrepeForAudioClassification(crepe).eval(), None) == 64

    def test_another_is_warned_of(self) -> None:
        base, _ = tiny("attentionrnn-classifier")
        said = r"CanvasConfig.samples: 1,600, and this AttentionRnnFor.* clips of 3,200 samples.*Fix: samples=3200"
        with pytest.warns(UserWarning, match=said):
            assert self._canvas(base, 1600) == 1600
