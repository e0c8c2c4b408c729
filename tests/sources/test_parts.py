"""What the source models share: mel spectra, and an LSTM whose gradient flows while the model sleeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from hf_reprogram.sources import AttentionRnnConfig
from hf_reprogram.sources.parts import Lstm, MelSpectrum, feature_extractor


BANK = {"num_mel_filters": 2, "min_frequency": 0.0, "max_frequency": 8000.0, "sampling_rate": 16000}


@pytest.mark.parametrize(("power", "spectrum"), [(1, [0.0, 1, 2, 1, 0]), (2, [0.0, 1, 4, 1, 0])])
def test_a_cosine_on_a_bin_gives_the_spectrum_of_its_window(power: int, spectrum: list[float]):
    """The Hann window sums to 4 over 8 samples: half of it falls on the cosine's bin, a quarter on each neighbour."""
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(8) / 8)  # twice around in one frame: bin 2
    mel = MelSpectrum(8, 4, power, **BANK)
    torch.testing.assert_close(mel(wave[None]), (torch.tensor(spectrum) @ mel.mel)[None, None], atol=1e-6, rtol=0)


def test_frames_start_every_hop_and_none_reaches_over_the_end():
    wave = torch.randn(1, 19)
    mel = MelSpectrum(8, 4, 1, **BANK)
    assert mel(wave).shape == (1, 3, 2)  # at 0, 4 and 8; the next would need sample 19
    torch.testing.assert_close(mel(wave)[:, 2], mel(wave[:, 8:16])[:, 0])


def test_the_bank_is_that_of_transformers_and_is_saved():
    mel = MelSpectrum(8, 4, 1, **BANK)
    assert torch.equal(mel.mel, torch.from_numpy(mel_filter_bank(5, **BANK)).float())
    assert list(mel.state_dict()) == ["mel"]


def test_mixed_precision_leaves_the_front_end_alone():
    wave, mel = torch.randn(2, 64), MelSpectrum(8, 4, 1, **BANK)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel(wave), mel(wave.clone())) and mel(wave).dtype == torch.float32
        mixed = mel(wave)
    assert torch.equal(mixed, mel(wave))
    assert mel.to(torch.bfloat16)(wave.bfloat16()).dtype == torch.float32


def test_lstm_in_eval_mode_calls_as_if_it_trained(monkeypatch: pytest.MonkeyPatch):
    """cuDNN refuses the backward pass of an eval-mode LSTM; without a GPU to show it, the call is watched."""
    modes, plain = [], torch._VF.lstm
    monkeypatch.setattr(torch._VF, "lstm", lambda *given: modes.append(given[6]) or plain(*given))
    lstm = Lstm(3, 4, batch_first=True).eval()
    lstm(torch.randn(2, 5, 3))
    assert modes == [True]
    assert not lstm.training


def test_lstm_sleeps_again_after_an_error():
    lstm = Lstm(3, 4, batch_first=True).eval()
    with pytest.raises(RuntimeError):
        lstm(torch.randn(2, 5, 7))
    assert not lstm.training


def test_lstm_is_torch_s_own():
    lstm, plain = Lstm(3, 4, 2, batch_first=True), nn.LSTM(3, 4, 2, batch_first=True)
    plain.load_state_dict(lstm.state_dict())
    values = torch.randn(2, 5, 3)
    assert torch.equal(lstm(values), plain(values)[0])


def test_the_extractor_changes_no_sample_and_refuses_another_rate():
    extractor = feature_extractor(AttentionRnnConfig())
    batch = extractor([[0.5, 1.5, -2.0], [1.0]], sampling_rate=16000, padding=True, return_tensors="pt")
    assert batch.input_values.tolist() == [[0.5, 1.5, -2.0], [1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="16000"):
        extractor([0.5], sampling_rate=8000)
