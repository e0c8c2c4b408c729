"""The waveform family, by hand: what is added, where, with what phase; starts, bounds, closed form."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs.waveform import WaveformConfig
from hf_reprogram.testing import AUDIO_ROWS, LABELS, program_config, tiny


def model_of(program: dict[str, Any], family: str = "wav2vec2-classifier", **canvas: Any) -> ReprogramModel:
    config = copy.copy(program_config("none", family))
    config.program = ReprogramConfig(program=program).program
    if canvas:
        config.canvas = ReprogramConfig(canvas=canvas).canvas
    return get_reprogram_model(*_args(family, config))


def _args(family: str, config: ReprogramConfig) -> tuple[Any, ...]:
    base, processor = tiny(family)
    return base, config, processor


def heard(
    model: ReprogramModel, waves: list[list[float]], mask: list | None = None, offset: list | None = None
) -> Tensor:
    """What the program makes of some waves."""
    waves = torch.tensor(waves)
    here = torch.zeros_like(waves, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool)
    batch = Batch(input_values=waves, signal_mask=here, offset=None if offset is None else torch.tensor(offset))
    return model.active_programs()[0](batch, model.backbone).input_values


def set_theta(model: ReprogramModel, values: list[float]) -> None:
    with torch.no_grad():
        model.active_programs()[0].theta.copy_(torch.tensor(values))


class TestWhatIsAdded:
    def test_a_short_sound_repeats(self) -> None:
        model = model_of({"type": "waveform", "period": 3})
        set_theta(model, [1.0, 2.0, 3.0])
        found = heard(model, [[0.5] * 7])
        assert found.tolist() == [[1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 1.5]]

    def test_a_row_s_offset_is_the_phase_it_begins_at(self) -> None:
        """The hum of a mains line goes on between the clips: theta[(o + t) mod P]."""
        model = model_of({"type": "waveform", "period": 3})
        set_theta(model, [1.0, 2.0, 3.0])
        found = heard(model, [[0.0] * 4] * 3, offset=[0, 2, 7])
        assert found.tolist() == [[1, 2, 3, 1], [3, 1, 2, 3], [2, 3, 1, 2]]

    def test_a_mask_leaves_the_signal_alone(self) -> None:
        model = model_of({"type": "waveform", "period": 2, "mask": True})
        set_theta(model, [1.0, 2.0])
        found = heard(model, [[5.0, 5.0, 0.0, 0.0]], mask=[[1, 1, 0, 0]])
        assert found.tolist() == [[5, 5, 1, 2]]

    def test_the_amplitude_is_bounded_smoothly(self) -> None:
        model = model_of({"type": "waveform", "period": 2, "max_amplitude": 0.5})
        set_theta(model, [0.25, -100.0])
        found = heard(model, [[0.0, 0.0]])
        assert found[0].tolist() == pytest.approx([0.5 * math.tanh(0.5), -0.5])

    def test_dropout_is_for_training_alone(self) -> None:
        model = model_of({"type": "waveform", "period": 1000, "dropout": 0.5})
        set_theta(model, [1.0] * 1000)
        model.train()
        trained = heard(model, [[0.0] * 1000])
        assert set(trained.flatten().tolist()) == {0.0, 2.0} and 400 < int((trained == 0).sum()) < 600
        model.eval()
        assert heard(model, [[0.0] * 1000]).unique().tolist() == [1.0]

    def test_a_batch_that_does_not_say_where_the_signal_is(self) -> None:
        model = model_of({"type": "waveform", "mask": True})
        with pytest.raises(UsageError, match=r"signal_mask: missing.*model.collator"):
            model(input_values=torch.zeros(1, 3200) + 0.1)


class TestStart:
    def test_zero_on_a_base_that_hears_the_wave(self) -> None:
        model = model_of({"type": "waveform"})
        assert model.active_programs()[0].theta.abs().max() == 0
        assert len(model.active_programs()[0].theta) == 3200 == model.peft_config["default"].program.period

    def test_normal_on_one_that_hears_a_spectrogram_s14(self) -> None:
        theta = model_of({"type": "waveform"}, "whisper-seq2seq").active_programs()[0].theta
        assert len(theta) == 16000 and theta.std().item() == pytest.approx(1e-3, rel=0.05)

    @pytest.mark.parametrize("init", ["zero", "auto"])
    def test_a_zero_start_has_no_gradient_at_silence_and_auto_has_s14(self, init: str) -> None:
        """S14: |X|^2 has no slope at 0, so that a zero program in a silent canvas never learns."""
        model = model_of({"type": "waveform", "init": init}, "whisper-classifier")
        model(**model.collator()(AUDIO_ROWS[:1])).loss.backward()
        silent = model.active_programs()[0].theta.grad[8000:]  # the clip has 1600 samples
        assert bool(silent.any()) == (init == "auto")

    def test_glorot_is_that_of_a_matrix_of_one_column(self) -> None:
        theta = model_of({"type": "waveform", "init": "glorot"}).active_programs()[0].theta
        bound = math.sqrt(6 / 3201)
        assert 0.99 * bound < theta.max() <= bound and -bound <= theta.min() < -0.99 * bound


class TestTheReleasedCode:
    """compat="v2s-code" (S§1, released code 1 and 2)."""

    def test_drops_at_test_time_too(self) -> None:
        model = model_of({"type": "waveform", "period": 2000, "compat": "v2s-code"})
        set_theta(model, [0.6] * 2000)
        model.eval()
        found = heard(model, [[0.0] * 2000])
        assert found.unique().tolist() == pytest.approx([0.0, 1.0])
        assert 0.35 < (found == 0).float().mean() < 0.45

    def test_adds_under_the_signal_and_starts_by_glorot(self) -> None:
        model = model_of({"type": "waveform", "compat": "v2s-code"})
        assert model.active_programs()[0].theta.abs().max().item() == pytest.approx(math.sqrt(6 / 3201), rel=0.01)
        assert heard(model, [[0.0] * 3200], mask=[[1] * 3200]).any()

    @pytest.mark.parametrize("more", [{"mask": True}, {"dropout": 0.1}, {"init": "zero"}, {"max_amplitude": 1.0}])
    def test_has_its_own_way(self, more: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="the code has its own way"):
            WaveformConfig(compat="v2s-code", **more)


class TestClosedForm:
    """theta = minus the mean by phase of unlabelled rows (feasibility-speech.md §4)."""

    def test_by_hand(self) -> None:
        model = model_of({"type": "waveform", "period": 2})
        program = model.active_programs()[0]
        program.estimate(torch.tensor([[1.0, 2.0, 3.0]]))  # phases 0, 1, 0
        assert program.theta.tolist() == [-2.0, -2.0]
        program.estimate(torch.tensor([[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]]), torch.tensor([0, 3]))  # and 1, 0, 1
        assert program.theta.tolist() == pytest.approx([-(1 + 3 + 7) / 3, -(2 + 5 + 9) / 3])

    def test_it_takes_a_hum_away(self) -> None:
        draw, offset = np.random.default_rng(0), torch.arange(200) * 37
        time = (offset.unsqueeze(1) + torch.arange(640)).double()
        hum = torch.sin(2 * math.pi * 50 * time / 16000 + 0.3).float()
        tones = torch.tensor(draw.standard_normal((200, 640)) * 0.05, dtype=torch.float32)
        model = model_of({"type": "waveform", "period": 320})
        model.active_programs()[0].estimate(hum + tones, offset)
        left = heard(model, (hum + tones).tolist(), offset=offset.tolist()) - tones
        assert left.square().mean().sqrt() < 0.005

    def test_under_a_bound_it_is_the_bound_s_inverse(self) -> None:
        model = model_of({"type": "waveform", "period": 1, "max_amplitude": 0.5})
        model.active_programs()[0].estimate(torch.full((1, 4), 0.3))
        assert heard(model, [[0.3, 0.3]]).abs().max() < 1e-6
        with pytest.raises(DataError, match=r"a mean of 0.6, above max_amplitude=0.5"):
            model.active_programs()[0].estimate(torch.full((1, 4), 0.6))

    def test_a_phase_that_no_row_has(self) -> None:
        model = model_of({"type": "waveform", "period": 10})
        with pytest.raises(DataError, match="no sample at 6 of 10 phases"):
            model.active_programs()[0].estimate(torch.zeros(2, 4))


class TestRefused:
    def test_a_sound_longer_than_the_canvas(self) -> None:
        with pytest.raises(ConfigError, match=r"period: 4000, and the canvas has 3200"):
            model_of({"type": "waveform", "period": 4000})

    def test_a_mask_where_the_signal_fills_the_canvas(self) -> None:
        with pytest.raises(ConfigError, match=r"place='am' fills the canvas"):
            model_of({"type": "waveform", "mask": True}, samples=3200, place="am")


class TestExplain:
    def test_level_and_bands(self) -> None:
        model = model_of({"type": "waveform", "period": 16})
        set_theta(model, [0.1, -0.1] * 8)  # half the rate: the highest frequency there is
        page = model.explain()
        first, *bands = page["facts"]
        assert page["slots"] == [] and first["samples"] == 16 and first["level dB"] == pytest.approx(-20)
        assert bands[-1]["hertz"] == "7000 to 8000" and bands[-1]["share of energy"] == pytest.approx(1)
        assert "level dB -20" in str(page)

    def test_signal_to_program_by_label(self) -> None:
        """Rows ten times as loud are 20 dB further above the same program."""
        model = model_of({"type": "waveform"})
        set_theta(model, [0.01] * 3200)
        wave = np.full(3200, 0.1, dtype=np.float32)
        rows = [
            {"audio": {"array": wave * scale, "sampling_rate": 16000}, "label": label}
            for label, scale in zip(LABELS, (1.0, 10.0), strict=True)
        ]
        page = model.explain(rows=rows)
        assert {r["label"]: r["signal to program dB"] for r in page["ratios"]} == pytest.approx(
            {"negative": 20.0, "positive": 40.0}, abs=1e-3
        )
        assert "label negative, rows 1, signal to program dB 20, lowest 20, highest 20" in str(page)

    def test_unlabelled_rows_are_one_group(self) -> None:
        model = model_of({"type": "waveform", "init": "normal"})
        rows = [{"audio": row["audio"]} for row in AUDIO_ROWS]
        assert [r["label"] for r in model.explain(rows=rows)["ratios"]] == ["all rows"]


def test_offsets_reach_the_program_from_rows() -> None:
    model = model_of({"type": "waveform", "period": 3})
    set_theta(model, [1.0, 2.0, 3.0])
    rows = [{**row, "offset": i} for i, row in enumerate(AUDIO_ROWS[:2])]
    columns = model.collator()(rows)
    assert columns["offset"].tolist() == [0, 1]
    batch = model.reprogrammed.batch(**{k: v for k, v in columns.items() if k != "labels"})
    added = model.active_programs()[0](batch, model.backbone).input_values - batch.input_values
    torch.testing.assert_close(added[:, :3], torch.tensor([[1.0, 2, 3], [2.0, 3, 1]]))
    assert not torch.equal(model.score(rows[1:]), model.score([{**rows[1], "offset": 0}]))


def test_offsets_that_cannot_be_meant() -> None:
    collator = model_of({"type": "waveform", "period": 3}).collator()
    for bad in (-1, 0.5, True, "3"):
        with pytest.raises(DataError, match=r"rows\[0\]\['offset'\].*a whole number of samples, from 0"):
            collator([{**AUDIO_ROWS[0], "offset": bad}])
    with pytest.raises(DataError, match=r"rows\[1\]\['offset'\]: missing, and other rows of the batch have one"):
        collator([{**AUDIO_ROWS[0], "offset": 5}, AUDIO_ROWS[1]])


def test_a_row_at_another_offset_is_another_row() -> None:
    """The cache of features keeps rows by their key: a periodic program hears them differently."""
    collator = model_of({"type": "waveform", "period": 3}).collator()
    keys = {clip.key() for clip in collator.lay_out([{**AUDIO_ROWS[0], "offset": i} for i in (0, 1)] + AUDIO_ROWS[:1])}
    assert len(keys) == 3
