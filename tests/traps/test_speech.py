"""Traps of frozen speech models by their numbers in methods-speech.md §0.2 (S).

S1, S2, S13, S17: tests/backbone/test_audio.py. S6-S9, S12, S16: test_speech_latent.py. S10, S11, S15, S18:
tests/backbone/test_frontend.py.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
import transformers as t
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.backbone import backbone_of
from hf_reprogram.batch import Batch, Reading
from hf_reprogram.data.audio import sounds_in
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, LABELS, tiny
from hf_reprogram.testing.audio import AUDIO_KIN, CANVAS


LINEAR = {"type": "linear", "pool": "mean", "solver": "gradient"}
WAVE2VEC = [f for f in (*AUDIO_FAMILIES, *AUDIO_KIN) if f.split("-")[0] in ("wav2vec2", "hubert", "wavlm", "sew")]


def _model(family: str, mapping: dict[str, Any] | None = None, samples: int | None = CANVAS) -> hr.ReprogramModel:
    base, processor = tiny(family)
    canvas = {"samples": samples} if samples else None
    config = hr.ReprogramConfig(mapping=mapping or LINEAR, labels=LABELS, canvas=canvas)
    return hr.get_reprogram_model(base, config, processing_class=processor)


@pytest.mark.parametrize("family", WAVE2VEC)
def test_s3_what_trains_is_program_and_map_and_nothing_else(family: str) -> None:
    """With its own flag on, the base makes a loss that needs a gradient even where nothing trains."""
    model = _model(family).train()
    model(**model.collator()(AUDIO_ROWS)).loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad} and all("mapping" in n for n in moved)
    backbone = backbone_of(*tiny(family))
    backbone.freeze()
    backbone.base.train()  # as Trainer would
    found = backbone.base(**backbone.frontend.features(0.1 * torch.randn(1, 16000)))
    assert not (found.logits if "logits" in found else found.last_hidden_state).requires_grad


@pytest.mark.parametrize("family", WAVE2VEC)
def test_s4_training_mode_wakes_neither_dropout_nor_layerdrop_nor_specaugment(family: str) -> None:
    base, extractor = tiny(family)
    for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"):
        setattr(base.config, name, 0.5)
    base.config.apply_spec_augment, base.config.mask_time_prob = True, 0.5
    config = hr.ReprogramConfig(mapping=LINEAR, labels=LABELS, canvas={"samples": 16000})
    model = hr.get_reprogram_model(base, config, processing_class=extractor).train()
    columns = model.collator()(AUDIO_ROWS)
    with torch.no_grad():
        first, second = model(**columns).logits, model(**columns).logits
        assert torch.equal(first, second)
        assert torch.equal(model.eval()(**columns).logits, first)


@pytest.mark.parametrize("family", WAVE2VEC)
def test_s5_a_short_clip_in_training_mode(family: str) -> None:
    """3,000 samples are 9 frames: SpecAugment would want 10, and die."""
    base, extractor = tiny(family)
    base.config.apply_spec_augment, base.config.mask_time_prob, base.config.mask_time_length = True, 0.05, 10
    config = hr.ReprogramConfig(mapping=LINEAR, labels=LABELS, canvas={"samples": 3000, "crop": "start"})
    model = hr.get_reprogram_model(base, config, processing_class=extractor).train()
    assert model(**model.collator()(AUDIO_ROWS)).loss.isfinite()


def test_s10_a_fixed_canvas_makes_padding_part_of_the_model() -> None:
    """Group norm hears its padding: the same clip alone, in a batch and in another order must be one score."""
    model = _model("wav2vec2-classifier")
    one = model.score(AUDIO_ROWS[:1])
    assert torch.allclose(model.score(AUDIO_ROWS[::-1])[-1:], one, atol=1e-5)
    longer = _model("wav2vec2-classifier", samples=2 * CANVAS)
    longer.active_mapping().load_state_dict(model.active_mapping().state_dict())
    assert (longer.score(AUDIO_ROWS[:1]) - one).abs().max() > 1e-3  # which is why it is saved with the program
    assert model.peft_config["default"].to_dict()["canvas"]["samples"] == CANVAS


@pytest.mark.parametrize("family", ["whisper-seq2seq", "ast-classifier"])
def test_s14_silence_has_no_slope_on_a_log_mel_base(family: str) -> None:
    """A program that starts at zero in the silent part of the canvas never leaves it; a thousandth is enough."""
    backbone = backbone_of(*tiny(family))
    samples = backbone.facts.canvas
    wave = torch.zeros(1, samples)
    wave[0, : samples // 4] = 0.1 * torch.randn(samples // 4, generator=torch.Generator().manual_seed(0))
    far = samples // 2  # beyond every frame that hears the signal
    for start, alive in ((0.0, False), (1e-3, True)):
        theta = (start * torch.randn(1, samples, generator=torch.Generator().manual_seed(1))).requires_grad_()
        found = backbone.run(Batch(input_values=wave + theta), Reading("state", pool="mean")).values
        found.square().sum().backward()
        assert bool(theta.grad[0, far:].abs().sum() > 0) is alive


class TestS19AHeadThatWasNeverTrained:
    def test_is_told(self) -> None:
        base, extractor = tiny("wav2vec2-classifier")
        torch.nn.init.zeros_(base.classifier.bias)
        config = hr.ReprogramConfig(mapping={"type": "labels", "per_label": 2}, labels=LABELS)
        with pytest.warns(UserWarning, match="never trained: its classes mean nothing"):
            hr.get_reprogram_model(base, config, processing_class=extractor)

    def test_a_trained_one_is_not_nor_one_that_nobody_reads(self) -> None:
        base, extractor = tiny("wav2vec2-classifier")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = hr.ReprogramConfig(mapping={"type": "labels", "per_label": 2}, labels=LABELS)
            hr.get_reprogram_model(base, config, processing_class=extractor).unload()
            torch.nn.init.zeros_(base.classifier.bias)
            hr.get_reprogram_model(base, hr.ReprogramConfig(mapping=LINEAR, labels=LABELS), processing_class=extractor)


def test_s20_models_of_spectrograms_train_through_our_features_on_a_second() -> None:
    for family in ("wav2vec2bert-classifier", "moonshine-seq2seq", "speech2text-seq2seq"):
        backbone = backbone_of(*tiny(family))
        backbone.freeze()
        wave = (0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))).requires_grad_()
        backbone.run(Batch(input_values=wave * 1.0), Reading("state", pool="mean")).values.sum().backward()
        assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0, family


def test_s21_one_name_for_every_base() -> None:
    """Whatever the base calls its input, a batch has `input_values`: the wave."""
    for family in AUDIO_FAMILIES:
        model = _model(family, samples=None)
        batch = model.collator()([{**row, "label": None} for row in AUDIO_ROWS])
        assert set(batch) == {"input_values", "signal_mask"}, family
        assert batch["input_values"].shape == (6, model.backbone.facts.canvas)


class TestRealDataPaths:
    def _files(self, folder: Path) -> list[str]:
        paths = []
        for i, row in enumerate(AUDIO_ROWS):
            paths.append(str(folder / f"{i}.wav"))
            soundfile.write(paths[-1], row["audio"]["array"], 16000, subtype="FLOAT")
        return paths

    def test_a_dataset_whose_audio_column_would_be_decoded(self, tmp_path: Path) -> None:
        """No torchcodec is needed: files are read with soundfile, in predict, evaluate and Trainer."""
        paths, labels = self._files(tmp_path), [row["label"] for row in AUDIO_ROWS]
        rows = datasets.Dataset.from_dict({"audio": paths, "label": labels}).cast_column("audio", datasets.Audio())
        model = _model("hubert-encoder")
        assert np.allclose(model.score(rows), model.score(AUDIO_ROWS), atol=1e-5)
        assert model.evaluate(rows)["n"] == 6
        self._train(model, rows, tmp_path)

    def test_a_stream_of_them(self, tmp_path: Path) -> None:
        paths, labels = self._files(tmp_path), [row["label"] for row in AUDIO_ROWS]
        rows = datasets.Dataset.from_dict({"audio": paths, "label": labels}).cast_column("audio", datasets.Audio())
        self._train(_model("hubert-encoder"), rows.to_iterable_dataset(), tmp_path)

    @staticmethod
    def _train(model: hr.ReprogramModel, rows: Any, folder: Path) -> None:
        before = {k: v.clone() for k, v in model.base_model.state("default").items()}
        arguments = TrainingArguments(
            str(folder / "out"), remove_unused_columns=False, max_steps=2, per_device_train_batch_size=3,
            report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        hr.make_trainer(model, arguments, rows).train()
        assert any(not torch.equal(before[k], v) for k, v in model.base_model.state("default").items())

    def test_a_folder_of_sounds_with_labels(self, tmp_path: Path) -> None:
        for i, row in enumerate(AUDIO_ROWS):
            (tmp_path / row["label"]).mkdir(exist_ok=True)
            soundfile.write(tmp_path / row["label"] / f"{i}.wav", row["audio"]["array"], 16000, subtype="FLOAT")
        rows = sounds_in(tmp_path)
        assert [row["label"] for row in rows] == ["negative"] * 3 + ["positive"] * 3
        model = _model("hubert-encoder", {"type": "linear", "pool": "mean"})
        model.fit_mapping(rows)
        assert model.evaluate(rows)["n"] == 6

    def test_an_extractor_that_differs_from_the_saved_one(self, tmp_path: Path) -> None:
        model = _model("hubert-encoder")
        model.save_pretrained(tmp_path)
        base = model.unload()
        other = t.Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=False)
        with pytest.raises(hr.ArtefactError, match="another tokenizer or feature extractor"):
            hr.AutoReprogramModel.from_pretrained(tmp_path, base, other)
