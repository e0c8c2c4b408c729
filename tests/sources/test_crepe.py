"""CREPE: the layer table, the fast convolution, and what labels mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_reprogram.errors import DataError
from hf_reprogram.sources import CrepeConfig, CrepeForAudioClassification
from hf_reprogram.sources.crepe import LongConv, pitch


SIZES = {"frame_samples": 64, "channels": (4, 6), "first_kernel": 16, "kernel": 8, "num_labels": 5}


@pytest.fixture
def model() -> CrepeForAudioClassification:
    torch.manual_seed(0)
    model = CrepeForAudioClassification(CrepeConfig(**SIZES)).eval().requires_grad_(False)
    for block in model.blocks:  # statistics that show where the norm stands
        block.norm.running_mean.uniform_(-1, 1)
        block.norm.running_var.uniform_(0.5, 2)
        block.conv.bias.uniform_(-1, 1)
    return model


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "time"),
    [(1, 128, 512, 4, 1532), (128, 16, 64, 1, 191), (3, 2, 5, 1, 5), (2, 3, 5, 2, 11), (2, 3, 6, 1, 12)],
    ids=["first of tiny", "second of tiny", "one step", "strided", "even"],
)
def test_fast_convolution_is_conv2d(inputs: int, outputs: int, kernel: int, stride: int, time: int):
    torch.manual_seed(0)
    conv, values = LongConv(inputs, outputs, kernel, stride), torch.randn(2, inputs, time, requires_grad=True)
    plain = functional.conv2d(values[..., None], conv.weight[..., None], conv.bias, (stride, 1))[..., 0]
    fast = conv(values)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)

    wanted = [values, conv.weight, conv.bias]
    seed = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(fast, wanted, seed), torch.autograd.grad(plain, wanted, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_fast_convolution_keeps_half_precision_half():
    conv = LongConv(2, 3, 5).to(torch.bfloat16)
    assert conv(torch.randn(1, 2, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16


def by_the_table(model: CrepeForAudioClassification, frames: torch.Tensor) -> torch.Tensor:
    """The layers as assets-speech.md 3.4 lists them, in torch's plain two-dimensional operations."""
    values = (frames - frames.mean(1, keepdim=True)) / frames.std(1, unbiased=True, keepdim=True)
    values = values[:, None, :, None]
    for block, pads, stride in zip(model.blocks, ((6, 6), (3, 4)), (4, 1), strict=True):
        values = functional.pad(values, (0, 0, *pads))
        values = functional.conv2d(values, block.conv.weight[..., None], block.conv.bias, (stride, 1)).relu()
        norm = block.norm
        values = functional.batch_norm(
            values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        values = functional.max_pool2d(values, (2, 1))
    return model.classifier(values.permute(0, 2, 1, 3).flatten(1))


def test_layers_are_those_of_the_table(model):
    frames = torch.randn(3, 64)
    torch.testing.assert_close(model(frames).logits, by_the_table(model, frames), atol=1e-5, rtol=1e-5)


def test_published_sizes():
    tiny = CrepeForAudioClassification(CrepeConfig())
    assert sum(p.numel() for p in tiny.parameters()) == 486_552  # assets-speech.md 3.4
    assert [block.padding for block in tiny.blocks] == [(254, 254)] + [(31, 32)] * 5
    shapes = [s.shape for s in tiny(torch.randn(1, 1024), output_hidden_states=True).hidden_states]
    assert shapes == [(1, 128, 128), (1, 64, 16), (1, 32, 16), (1, 16, 16), (1, 8, 32), (1, 4, 64)]
    with torch.device("meta"):
        full = CrepeForAudioClassification(CrepeConfig(channels=(1024, 128, 128, 128, 256, 512)))
    assert sum(p.numel() for p in full.parameters()) == 22_239_976


def test_loudness_and_offset_cancel(model):
    frames = torch.randn(2, 64)
    torch.testing.assert_close(model(3 * frames + 0.7).logits, model(frames).logits, atol=1e-4, rtol=0)


def test_silence_is_finite_and_so_is_its_gradient(model):
    frames = torch.zeros(1, 64, requires_grad=True)
    logits = model(frames).logits
    logits.sum().backward()
    assert logits.isfinite().all() and frames.grad.isfinite().all()


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_the_gradient_reaches_every_sample(model, mode: bool):
    frames = torch.randn(2, 64, requires_grad=True)
    model.train(mode)(frames).logits[:, 3].sum().backward()
    assert (frames.grad != 0).all()


def test_batch_norms_keep_their_statistics_in_train_mode(model):
    frames = torch.randn(2, 64)
    asleep = model(frames).logits
    before = model.blocks[0].norm.running_mean.clone()
    assert torch.equal(model.train()(frames).logits, asleep)
    assert torch.equal(model.blocks[0].norm.running_mean, before)


def test_last_hidden_state_flattened_is_what_the_head_reads(model):
    output = model(torch.randn(2, 64), output_hidden_states=True)
    assert torch.equal(model.classifier(output.hidden_states[-1].flatten(1)), output.logits)


def test_labels_are_pitches_twenty_cents_apart():
    assert pitch(60 + 17) == pytest.approx(2 * pitch(17))  # 60 times 20 cents are an octave
    names = CrepeConfig().id2label
    assert len(set(names.values())) == 360
    assert (names[0], names[108], names[359]) == ("31.70 Hz", "110.39 Hz", "2005.50 Hz")
    assert CrepeConfig().label2id["110.39 Hz"] == 108


def test_own_labels_win_over_pitches():
    assert CrepeConfig(id2label={0: "low", 1: "high"}).id2label == {0: "low", 1: "high"}
    assert CrepeConfig(num_labels=2).id2label == {0: "31.70 Hz", 1: "32.07 Hz"}


def test_auto_class_loads_what_was_saved_bit_for_bit(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.config.problem_type == "multi_label_classification"
    frames = torch.randn(2, 64)
    assert torch.equal(loaded(frames).logits, model(frames).logits)


@pytest.mark.parametrize("shape", [(64,), (2, 65), (2, 1, 64)])
def test_a_frame_of_another_length_is_refused(model, shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"input_values: shape .*Expected \(batch, 64\): CREPE hears one frame"):
        model(torch.zeros(shape))


# The real one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hertz", "label", "confidence"), [(110, 108, 0.8740), (440, 228, 0.9268), (1000, 298, 0.8602)]
)
def test_published_check_values(crepe: Path, hertz: int, label: int, confidence: float):
    """assets-speech.md 3.4: a sine with 512 zeros before it, the frame that starts 50 times 160 samples later."""
    model = AutoModelForAudioClassification.from_pretrained(crepe, local_files_only=True)
    extractor = AutoFeatureExtractor.from_pretrained(crepe, local_files_only=True)
    time = torch.arange(50 * 160 - 512, 50 * 160 + 512, dtype=torch.float64) / 16000
    frame = (0.5 * torch.sin(2 * torch.pi * hertz * time)).float()
    columns = extractor(frame.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        best = model(**columns).logits[0].sigmoid().max(0)
    assert best.indices == label
    assert best.values.item() == pytest.approx(confidence, abs=1e-4)
