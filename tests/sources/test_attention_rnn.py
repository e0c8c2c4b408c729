"""The attention-RNN keyword spotter: its front end, its inner layers, and what a program needs of it."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_reprogram.errors import DataError
from hf_reprogram.sources import AttentionRnnConfig, AttentionRnnForAudioClassification


SIZES = {"num_labels": 7, "num_mel_bins": 8, "lstm_hidden": 4, "hidden_dims": (6, 5), "n_fft": 64, "hop_length": 16}


@pytest.fixture
def model() -> AttentionRnnForAudioClassification:
    torch.manual_seed(0)
    return AttentionRnnForAudioClassification(AttentionRnnConfig(**SIZES)).eval().requires_grad_(False)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (16, 1), (17, 2), (160, 10), (1000, 63)])
def test_one_frame_starts_every_hop_while_there_is_signal(model, samples: int, frames: int):
    assert model.features(torch.randn(2, samples)).shape == (2, frames, 8)


def test_the_published_front_end_gives_125_frames_of_80():
    published = AttentionRnnForAudioClassification(AttentionRnnConfig(num_labels=36))
    assert published.features(torch.randn(1, 16000)).shape == (1, 125, 80)
    trained = sum(parameter.numel() for parameter in published.parameters())
    assert trained == 202_249  # assets-speech.md 3.1


def test_each_clip_is_standardised_by_itself(model):
    wave = torch.randn(3, 400) * torch.tensor([[1.0], [0.01], [5.0]])
    features = model.features(wave)
    torch.testing.assert_close(features.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.square().mean(dim=(1, 2)), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[1:2], model.features(wave[1:2]), atol=1e-5, rtol=0)


def test_loudness_cancels(model):
    wave = torch.randn(2, 400)
    torch.testing.assert_close(model(3 * wave).logits, model(wave).logits, atol=1e-4, rtol=0)


def test_silence_is_finite_and_so_is_its_gradient(model):
    wave = torch.zeros(1, 400, requires_grad=True)
    assert not model.features(wave).any()  # no deviation to divide by: zeros, not rounding noise
    logits = model(wave).logits
    logits.sum().backward()
    assert logits.isfinite().all() and wave.grad.isfinite().all()


def test_inner_layers_lead_to_the_logits(model):
    output = model(torch.randn(2, 400), output_hidden_states=True)
    features, recurrent, context, first, second = output.hidden_states
    assert [s.shape[1:] for s in output.hidden_states] == [(25, 8), (25, 8), (1, 8), (1, 6), (1, 5)]
    assert torch.equal(model.output(second)[:, 0], output.logits)
    assert torch.equal(model.fc2(first), second)
    assert torch.equal(model.fc1(context).relu(), first)

    query = model.query(recurrent[:, -1])  # attention asks with the last step
    weights = torch.softmax(torch.einsum("bd,btd->bt", query, recurrent), dim=1)
    torch.testing.assert_close(context[:, 0], torch.einsum("bt,btd->bd", weights, recurrent))


def test_the_convolutions_see_time_and_not_frequency(model):
    """A kernel of (5, 1): what changes in band 3 of one frame stays in band 3, at most two frames away per layer."""
    features = torch.randn(1, 1, 20, 8, requires_grad=True)
    values = model.bn2(model.conv2(model.bn1(model.conv1(features))))
    (gradient,) = torch.autograd.grad(values[0, 0, 10, 3], features)
    reached = gradient[0, 0].nonzero()
    assert reached[:, 1].unique().tolist() == [3]
    assert (reached[:, 0].min(), reached[:, 0].max()) == (6, 14)


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_the_gradient_reaches_every_sample_of_the_wave(model, mode: bool):
    wave = torch.randn(2, 400, requires_grad=True)
    model.train(mode)(wave).logits[:, 3].sum().backward()
    # The window is 0 at a frame's first sample, and no other frame covers the clip's first sample.
    assert (wave.grad[:, 1:] != 0).all() and not wave.grad[:, 0].any()


def test_batch_norms_keep_their_statistics_in_train_mode(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wave = torch.randn(2, 400)
    asleep = model(wave).logits
    assert torch.equal(model.train()(wave).logits, asleep)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_auto_class_loads_what_was_saved_bit_for_bit(model, tmp_path: Path):
    model.config.id2label = {i: f"word {i}" for i in range(7)}
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(loaded) is AttentionRnnForAudioClassification and loaded.config.id2label[6] == "word 6"
    wave = torch.randn(2, 400)
    assert torch.equal(loaded(wave).logits, model(wave).logits)


def test_output_is_a_tuple_where_that_is_asked_for(model):
    wave = torch.randn(2, 400)
    (logits,) = model(wave, return_dict=False)
    assert torch.equal(logits, model(wave).logits)


@pytest.mark.parametrize("shape", [(400,), (2, 1, 400), (2, 0)])
def test_what_is_no_batch_of_waves_is_refused(model, shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"input_values: shape .*Expected \(batch, samples\)"):
        model(torch.zeros(shape))


# The real one, where ../shared lies beside the checkout --------------------------------------------------------------


def test_published_check_values(attention_rnn: Path):
    """assets-speech.md 3.1: a rising tone of one second."""
    model = AutoModelForAudioClassification.from_pretrained(attention_rnn, local_files_only=True)
    extractor = AutoFeatureExtractor.from_pretrained(attention_rnn, local_files_only=True)
    time = torch.arange(16000, dtype=torch.float64) / 16000
    tone = 0.5 * torch.sin(2 * torch.pi * (100 * time + 950 * time**2))
    columns = extractor(tone.float().numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = model(**columns, output_hidden_states=True)

    first_bands, embedding = output.hidden_states[0][0, 0, :3], output.hidden_states[-1][0, 0, :4]
    torch.testing.assert_close(first_bands, torch.tensor([1.8236, 2.1135, 2.4810]), atol=1e-4, rtol=0)
    torch.testing.assert_close(embedding, torch.tensor([5.3519, 0.5746, 5.3037, 2.6140]), atol=1e-3, rtol=0)
    top = output.logits[0].topk(5)
    assert [model.config.id2label[i] for i in top.indices.tolist()] == ["one", "right", "nine", "backward", "marvin"]
    torch.testing.assert_close(top.values, torch.tensor([25.862, 14.866, 12.927, 9.950, 9.010]), atol=2e-3, rtol=0)


def test_its_own_mel_bank_is_transformers_up_to_half_precision(attention_rnn: Path):
    loaded = AutoModelForAudioClassification.from_pretrained(attention_rnn, local_files_only=True)
    computed = AttentionRnnForAudioClassification(AttentionRnnConfig())
    torch.testing.assert_close(loaded.features.spectrum.mel, computed.features.spectrum.mel, atol=5e-4, rtol=0)


def test_it_agrees_with_the_reference_in_value_and_gradient(
    attention_rnn: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(shared / "assets"))
    reference, words = import_module("attrnn_reference").load(shared / "models" / "attrnn-speech-commands-v2-35")
    model = AutoModelForAudioClassification.from_pretrained(attention_rnn, local_files_only=True)
    assert list(model.config.id2label.values()) == words

    wave = 0.1 * torch.randn(2, 16000, requires_grad=True)
    ours, theirs = model(wave).logits, reference(wave)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    (gradient,), (expected,) = (torch.autograd.grad(out[:, 3].sum(), wave) for out in (ours, theirs))
    torch.testing.assert_close(gradient, expected, atol=1e-3 * expected.abs().max().item(), rtol=0)


@pytest.mark.slow
def test_it_knows_ninety_four_of_a_hundred_commands(attention_rnn: Path, shared: Path):
    """The ten words of the packed Speech Commands test: 0.940 (assets-speech.md 3.1)."""
    import soundfile

    model = AutoModelForAudioClassification.from_pretrained(attention_rnn, local_files_only=True)
    folder = shared / "data" / "gsc12"
    sound, _ = soundfile.read(folder / "test.ogg", dtype="float32")
    with (folder / "index.csv").open(newline="", encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if r["split"] == "test" and not r["label"].startswith("_")]
    clips = torch.zeros(len(rows), 16000)
    for clip, row in zip(clips, rows, strict=True):
        start, length = int(row["start"]), min(int(row["length"]), 16000)
        clip[:length] = torch.from_numpy(sound[start : start + length])
    with torch.no_grad():
        found = torch.cat([model(part).logits.argmax(1) for part in clips.split(40)])
    hits = sum(model.config.id2label[i] == row["label"] for i, row in zip(found.tolist(), rows, strict=True))
    assert (len(rows), hits) == (400, 376)
