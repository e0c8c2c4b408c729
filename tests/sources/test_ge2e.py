"""The GE2E speaker encoder: its front end, its windows, its embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from hf_reprogram.errors import DataError
from hf_reprogram.sources import Ge2eConfig, Ge2eModel


SIZES = {"num_mel_bins": 8, "hidden_size": 6, "num_hidden_layers": 2, "window_frames": 20, "window_step": 10}


@pytest.fixture
def model() -> Ge2eModel:
    torch.manual_seed(0)
    model = Ge2eModel(Ge2eConfig(**SIZES)).eval().requires_grad_(False)
    model.linear.bias.uniform_(0, 1)  # so that the ReLU leaves something
    return model


def test_spectra_are_torchaudio_s():
    """Slaney bands and areas, energies, zeros around the clip: assets-speech.md 3.5."""
    from torchaudio.transforms import MelSpectrogram

    wave, model = torch.randn(2, 5000), Ge2eModel(Ge2eConfig())
    reference = MelSpectrogram(
        16000, n_fft=400, hop_length=160, n_mels=40, norm="slaney", mel_scale="slaney", pad_mode="constant"
    )
    ours = model.spectrum(torch.nn.functional.pad(wave, (200, 200)))
    torch.testing.assert_close(ours, reference(wave).mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("samples", "windows"), [(1, 1), (1600, 1), (3200, 1), (4640, 2), (4639, 1), (6400, 3)]
)  # a frame every 160 samples, both ends included: 1, 11, 21, 30, 29 and 41 frames
def test_windows_of_twenty_frames_every_ten(model, samples: int, windows: int):
    assert model(torch.randn(2, samples)).last_hidden_state.shape == (2, windows, 6)


def test_the_embedding_is_the_mean_of_the_windows_at_length_one(model):
    output = model(torch.randn(2, 6400))
    windows, vector = output.last_hidden_state, output.pooler_output
    torch.testing.assert_close(windows.norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(2))
    total = windows[:, 0] + windows[:, 1] + windows[:, 2]
    torch.testing.assert_close(vector, total / total.norm(dim=-1, keepdim=True))
    assert (vector >= 0).all()


def test_a_window_hears_its_own_twenty_frames(model):
    """Frame f is centred on sample 160 f, 200 samples to each side: window 1, frames 10 to 29, begins at 1400."""
    model.spectrum.mel.mul_(1000)  # energies at -30 dBFS are small, and this model has learnt nothing about them
    wave = torch.randn(1, 6400)
    other = torch.cat([wave[:, :1400].flip(1), wave[:, 1400:4840], wave[:, 4840:].flip(1)], dim=1)  # as loud
    before, after = model(wave).last_hidden_state[0], model(other).last_hidden_state[0]
    torch.testing.assert_close(after[1], before[1], atol=1e-6, rtol=0)
    assert (after[0] - before[0]).abs().max() > 1e-4 and (after[2] - before[2]).abs().max() > 1e-4


def test_loudness_cancels(model):
    wave = torch.randn(2, 3200)
    torch.testing.assert_close(model(0.01 * wave).pooler_output, model(wave).pooler_output, atol=1e-5, rtol=0)


def test_silence_is_finite_and_so_is_its_gradient(model):
    wave = torch.zeros(1, 3200, requires_grad=True)
    vector = model(wave).pooler_output
    vector.sum().backward()
    assert vector.isfinite().all() and wave.grad.isfinite().all()


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_the_gradient_reaches_the_wave(model, mode: bool):
    wave = torch.randn(2, 3200, requires_grad=True)
    model.train(mode)(wave).pooler_output[:, 2].sum().backward()
    assert (wave.grad != 0).all()


def test_published_sizes():
    model = Ge2eModel(Ge2eConfig())
    assert sum(p.numel() for p in model.parameters()) == 1_423_618 - 2  # two belong to the training loss alone
    assert model(torch.randn(1, 16000)).pooler_output.shape == (1, 256)


def test_auto_class_loads_what_was_saved_bit_for_bit(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    wave = torch.randn(2, 3200)
    assert torch.equal(loaded(wave).pooler_output, model(wave).pooler_output)


def test_a_checkpoint_without_a_mel_bank_gets_the_computed_one(model, tmp_path: Path):
    """Transformers makes the model without content first: what the file lacks must be filled, not left as it lay."""
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != "spectrum.mel"})
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"spectrum.mel"}
    assert torch.equal(loaded.spectrum.mel, model.spectrum.mel)


@pytest.mark.parametrize("shape", [(400,), (2, 1, 400), (2, 0)])
def test_what_is_no_batch_of_waves_is_refused(model, shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"input_values: shape .*Expected \(batch, samples\)"):
        model(torch.zeros(shape))


# The real one --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_published_check_values(ge2e: Path):
    """assets-speech.md 3.5: a rising tone of one second, which is one short window."""
    model = AutoModel.from_pretrained(ge2e, local_files_only=True)
    extractor = AutoFeatureExtractor.from_pretrained(ge2e, local_files_only=True)
    time = torch.arange(16000, dtype=torch.float64) / 16000
    tone = 0.5 * torch.sin(2 * torch.pi * (100 * time + 950 * time**2))
    columns = extractor(tone.float().numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        top = model(**columns).pooler_output[0].topk(5)
    assert top.indices.tolist() == [20, 58, 133, 24, 127]
    torch.testing.assert_close(top.values, torch.tensor([0.296, 0.209, 0.195, 0.191, 0.185]), atol=6e-4, rtol=0)
