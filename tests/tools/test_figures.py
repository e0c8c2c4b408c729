"""Figures: what is drawn is what the model computes, and what cannot be drawn is said."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, build, config_of, mapping_config, program_config, tiny
from hf_reprogram.tools import figures


matplotlib.use("Agg")
CANVAS = 3200
ROW = AUDIO_ROWS[0]  # 1,600 samples: half of the canvas
LABELS = ["negative", "positive"]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def _model(program: Any, family: str = "wav2vec2-classifier", mapping: Any = None, **canvas: Any) -> hr.ReprogramModel:
    config = hr.ReprogramConfig(
        program=program, mapping=mapping or {"type": "linear", "on": "classes", "solver": "gradient"}, labels=LABELS,
        canvas={"samples": CANVAS, **canvas} if family in AUDIO_FAMILIES else None,
    )  # fmt: skip
    base, processor = tiny(family)
    return hr.get_reprogram_model(base, config, processor)


def _set(model: hr.ReprogramModel, scale: float = 0.1) -> None:
    """Random numbers in a program."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.active_programs()[0].parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def _panels(figure: Any) -> dict[str, Any]:
    """Axes by title."""
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def _wave(ax: Any) -> np.ndarray:
    (line,) = ax.lines
    return line.get_ydata()


def _image(ax: Any) -> np.ndarray:
    (image,) = ax.images
    return np.asarray(image.get_array())


@pytest.fixture(scope="module")
def model() -> hr.ReprogramModel:
    """A sound that is added to the whole canvas."""
    model = _model("waveform")
    _set(model)
    return model


@pytest.fixture(scope="module")
def panels(model: hr.ReprogramModel) -> dict[str, Any]:
    """Its figure's axes, by title."""
    return _panels(hr.plot_program(model, ROW))


class TestProgramOfTheWave:
    def test_the_sound_what_is_added_and_their_sum(self, model: hr.ReprogramModel, panels: dict[str, Any]) -> None:
        clip, added, heard = (_wave(panels[figures.TITLES[name]]) for name in ("clip", "added", "heard"))
        np.testing.assert_array_equal(clip[:1600], ROW["audio"]["array"])
        assert not clip[1600:].any()
        np.testing.assert_allclose(added, model.active_programs()[0].theta.detach(), atol=1e-7)
        np.testing.assert_allclose(heard, clip + added, atol=1e-7)

    def test_the_three_are_drawn_to_one_scale(self, panels: dict[str, Any]) -> None:
        assert len({panels[title].get_ylim() for title in figures.TITLES.values()}) == 1

    @pytest.mark.parametrize(("place", "spans"), [({}, [(0, 1600)]), ({"place": "copies", "copies": 2}, [(0, 3200)])])
    def test_grey_is_where_the_signal_sits(self, place: dict[str, Any], spans: list[tuple[int, int]]) -> None:
        panel = _panels(hr.plot_program(_model("waveform", **place), ROW))[figures.TITLES["clip"]]
        (grey,) = panel.collections
        found = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in grey.get_paths()]
        np.testing.assert_allclose(found, np.array(spans) / 16000)

    def test_spectra_of_all_three_with_a_key(self) -> None:
        model = _model({"type": "waveform", "period": 16})
        with torch.no_grad():
            model.active_programs()[0].theta.copy_(0.1 * torch.sin(2 * torch.pi * torch.arange(16) / 16))
        panel = _panels(hr.plot_program(model, ROW))["amplitude in dB"]
        assert [text.get_text() for text in panel.get_legend().get_texts()] == list(figures.TITLES.values())
        _, added, _ = panel.lines
        loudest = added.get_ydata().argmax()
        assert added.get_xdata()[loudest] == 1000 and added.get_ydata()[loudest] == pytest.approx(-20, abs=0.01)

    def test_mel_bands_before_after_and_between(self, panels: dict[str, Any]) -> None:
        before, after, gap = (_image(panels[name]) for name in ("before", "after", "difference"))
        assert before.shape == after.shape == (figures.MELS, CANVAS // 160 + 1)
        np.testing.assert_allclose(gap, after - before)
        assert after.max() - min(before.min(), after.min()) == pytest.approx(figures.RANGE)  # silence after the clip

    def test_a_sound_put_before_another_moves_it(self) -> None:
        model = _model({"type": "waveform_pad", "before": 160})
        panels = _panels(hr.plot_program(model, ROW))
        clip, added = (_wave(panels[figures.TITLES[name]]) for name in ("clip", "added"))
        assert len(clip) == CANVAS + 160 and not clip[:160].any()
        np.testing.assert_array_equal(clip[160:1760], ROW["audio"]["array"])
        assert added[:160].all() and not added[160:].any()


class TestProgramOfTheSpectrogram:
    @pytest.mark.parametrize("family", ["ast-classifier", "whisper-classifier"])
    def test_the_bases_own_features_and_what_is_added_to_them(self, family: str) -> None:
        base, _ = tiny(family)
        samples = 3200 if family == "whisper-classifier" else 4400
        model = _model("spec_additive", family, samples=samples)
        _set(model)
        panels = _panels(hr.plot_program(model, ROW))
        columns = model.collator()([ROW])
        own = model.backbone.bring(
            model.reprogrammed.batch(input_values=columns["input_values"]), "features"
        ).input_features
        np.testing.assert_array_equal(_image(panels["before"]), own[0])
        np.testing.assert_allclose(_image(panels["difference"]), model.active_programs()[0].theta.detach(), atol=1e-5)
        assert figures.TITLES["added"] not in panels and "amplitude in dB" not in panels  # the wave stays as it is

    @pytest.mark.parametrize(("family", "more"), [("wav2vec2bert-classifier", 4), ("whisper-classifier", 0)])
    def test_frames_put_before_others_have_no_difference(self, family: str, more: int) -> None:
        panels = _panels(hr.plot_program(_model({"type": "mel_prompt", "length": 4}, family), ROW))
        assert _image(panels["after"]).shape[1] == _image(panels["before"]).shape[1] + more
        assert "difference" not in panels


class TestWhatIsNoSound:
    def test_a_program_inside_the_base_is_named_and_nothing_is_made_up(self) -> None:
        figure = hr.plot_program(_model("latent_shift"), ROW)
        assert set(_panels(figure)) == {figures.TITLES["clip"], "as the base hears it"}
        assert "latent_shift acts inside it, which is no sound" in figure.get_suptitle()

    def test_a_program_of_text_is_sent_to_explain(self) -> None:
        with pytest.raises(UsageError, match=r"a LlamaForCausalLM, which reads.*model.explain\(\).*plot_mapping"):
            hr.plot_program(build(program_config("prompt"), "llama"), "so good")

    def test_one_row_that_can_be_laid_out(self) -> None:
        model = _model("waveform")
        with pytest.raises(DataError, match="2 rows"):
            hr.plot_program(model, AUDIO_ROWS[:2])
        with pytest.raises(DataError, match="'no.wav' is no file"):
            hr.plot_program(model, "no.wav")


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_every_family_is_drawn(family: str, tmp_path: Path) -> None:
    """From a path, through the family's own front end."""
    soundfile.write(tmp_path / "clip.wav", ROW["audio"]["array"], 16000)
    figure = hr.plot_program(build(config_of("program", "waveform", family), family), str(tmp_path / "clip.wav"))
    assert {"before", "after", "difference", *figures.TITLES.values()} <= set(_panels(figure))


def test_a_row_names_its_program() -> None:
    model = _model("waveform")
    model.add_adapter("inside", hr.ReprogramConfig(
        program="latent_shift", mapping={"type": "linear", "on": "classes", "solver": "gradient"}, labels=LABELS,
        canvas={"samples": CANVAS},
    ))  # fmt: skip
    figure = hr.plot_program(model, {**ROW, "adapter": "inside"})
    assert figure.get_suptitle().startswith("latent_shift on Wav2Vec2ForSequenceClassification")


def test_it_draws_where_it_is_told_to_and_leaves_the_model_as_it_was() -> None:
    model = _model("waveform").train()
    own = Figure()
    assert hr.plot_program(model, ROW, figure=own) is own and own.axes
    assert model.training
    ax = Figure().add_subplot()
    assert figures.plot_wave({"a": [0.0, 1.0]}, 2, ax) is ax.figure
    assert figures.plot_spectrum({"a": [0.0, 1.0, 0.5]}, 2, ax) is ax.figure


class TestLevels:
    def test_a_sine_in_a_long_sound(self) -> None:
        """10 log10 of (amplitude squared) at its frequency, whatever the length."""
        time = np.arange(16000) / 16000
        hertz, level = figures.levels(0.5 * np.sin(2 * np.pi * 2000 * time), 16000)
        assert len(hertz) == figures.FRAME // 2
        assert hertz[level.argmax()] == 2000 and level.max() == pytest.approx(20 * np.log10(0.5), abs=1e-6)

    def test_lines_of_a_period(self) -> None:
        turns = 2 * np.pi * np.arange(320) / 320
        sound = 0.3 * np.sin(turns + 0.3) + 0.18 * np.sin(2 * turns + 1.1) + 0.12 * np.sin(3 * turns + 2)
        hertz, level = figures.levels(sound, 16000)
        np.testing.assert_allclose(hertz[:3], [50, 100, 150])
        np.testing.assert_allclose(level[:4], [*(20 * np.log10([0.3, 0.18, 0.12])), -100], atol=1e-6)


class TestMapping:
    @staticmethod
    def _drawn(figure: Any) -> tuple[list[str], list[str], np.ndarray]:
        """Target labels, source labels, weights."""
        ax = figure.axes[0]
        return *([text.get_text() for text in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis)), _image(ax)

    def test_label_words_share_their_label(self) -> None:
        model = build(config_of("mapping", "verbalizer", "llama"), "llama")
        labels, words, weights = self._drawn(hr.plot_mapping(model))
        assert (labels, words) == (LABELS, ["' bad'", "' poor'", "' good'"])
        assert weights.tolist() == [[0.5, 0.5, 0], [0, 0, 1]]

    @pytest.mark.parametrize(("reduce", "weight"), [("mean", 0.5), ("sum", 1.0)])
    def test_classes_of_the_base_by_name(self, reduce: str, weight: float) -> None:
        groups = {"negative": ["LABEL_5", 1], "positive": ["LABEL_3"]}
        mapping = {"type": "labels", "method": "given", "groups": groups, "reduce": reduce, "centred": False}
        labels, classes, weights = self._drawn(hr.plot_mapping(_model("none", mapping=mapping)))
        assert (labels, classes) == (LABELS, ["LABEL_5", "LABEL_1", "LABEL_3"])
        assert weights.tolist() == [[weight, weight, 0], [0, 0, 1]]

    def test_similar_classes(self) -> None:
        model = _model("none", mapping={"type": "similarity", "per_label": 1})
        with pytest.raises(UsageError, match="must be fitted.*fit_mapping"):
            hr.plot_mapping(model)
        model.fit_mapping(AUDIO_ROWS)
        _, classes, weights = self._drawn(hr.plot_mapping(model))
        said = model.active_mapping().explain()["source labels"]
        assert classes == [*said["negative"], *said["positive"]] and weights.tolist() == [[1, 0], [0, 1]]

    def test_weights_of_a_linear_map_have_signs(self) -> None:
        model = _model("none")
        with torch.no_grad():
            model.active_mapping().matrix.copy_(torch.tensor([[0.0, -3, 0, 0, 0.1, 0, 0], [0.5, 0, 0, 0, 0, 0, 2]]))
        labels, classes, weights = self._drawn(figure := hr.plot_mapping(model, most=3))
        assert (labels, classes) == (LABELS, ["LABEL_1", "LABEL_6", "LABEL_0"])  # the strongest, label by label
        assert weights.tolist() == [[-3, 0, 0], [0, 2, 0.5]]
        (image,) = figure.axes[0].images
        assert image.get_clim() == (-3, 3) and "3 of 7 source labels" in figure.axes[0].get_title()

    def test_tokens_are_decoded(self) -> None:
        model = _model(
            {"type": "none", "template": "{text} is{answer}"}, "llama",
            {"type": "labels", "method": "blocks", "per_label": 2, "centred": False},
        )  # fmt: skip
        _, tokens, _ = self._drawn(hr.plot_mapping(model))
        own = model.processing_class
        assert [token.strip("'") for token in tokens] == [figures._shown(i, own).strip("'") for i in range(4)]
        assert own.decode([3]).strip() in tokens[3]

    def test_a_map_of_states_and_what_has_no_labels(self) -> None:
        state = {"type": "linear", "pool": "mean", "solver": "gradient"}
        figure = hr.plot_mapping(_model("none", mapping=state))
        (image,) = figure.axes[0].images
        likeness = np.asarray(image.get_array())
        count = len(likeness)
        assert likeness.shape == (count, count) and np.allclose(np.diag(likeness), 1.0, atol=1e-6)
        assert np.allclose(likeness, likeness.T) and "linear of states" in figure.axes[0].get_title()
        with pytest.raises(UsageError, match="reads nothing that has names"):
            hr.plot_mapping(build(mapping_config("none", "bert-encoder"), "bert-encoder"))
        with pytest.raises(UsageError, match=r"plot_mapping\(most\): 0"):
            hr.plot_mapping(_model("none"), most=0)

    def test_it_draws_into_axes(self) -> None:
        ax = Figure().add_subplot()
        assert hr.plot_mapping(_model("none"), ax=ax) is ax.figure and ax.images


@pytest.mark.parametrize(
    ("package", "message"),
    [("matplotlib", r"pip install 'hf-reprogram\[figures\]'"), ("torchaudio", r"pip install 'hf-reprogram\[audio\]'")],
)
def test_what_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str, message: str) -> None:
    model, real = _model("waveform"), builtins.__import__

    def fails(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ConfigError, match=f"{package}: not usable.*{message}"):
        hr.plot_program(model, ROW)
