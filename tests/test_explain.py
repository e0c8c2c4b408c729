"""Explain: what programs and mapping mean; how loud sounds are against a program, label by label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import AUDIO_ROWS, LABELS, ROWS, build, program_config, tiny


CANVAS = 3200


def _model(
    program: Any, family: str = "hubert-encoder", kind: str = "single_label_classification", samples: int = CANVAS
) -> ReprogramModel:
    mapping = {"type": "linear", "pool": "mean", "solver": "gradient"}
    config = ReprogramConfig(
        program=program, mapping=mapping, labels=["quiet", "loud"], problem_type=kind, canvas={"samples": samples}
    )
    base, processor = tiny(family)
    return get_reprogram_model(base, config, processor)


def _row(amplitude: float, label: Any, samples: int = CANVAS) -> dict[str, Any]:
    wave = np.full(samples, amplitude, dtype=np.float32)
    return {"audio": {"array": wave, "sampling_rate": 16000}, "label": label}


def _constant(model: ReprogramModel, value: float) -> None:
    with torch.no_grad():
        for parameter in model.active_programs()[0].parameters():
            parameter.fill_(value)


def test_of_text_it_prints_the_mapping_with_its_token_ids() -> None:
    model = build(program_config("prompt"), "llama")
    page = str(model.explain())
    token = model.processing_class(" bad", add_special_tokens=False)["input_ids"][0]
    assert f"' bad': {token}" in page and "slot   4" in page


def test_label_words_have_their_weights() -> None:
    found = build(program_config("prompt"), "llama").explain()["mapping"]["source labels"]
    assert found == {"negative": {" bad": 0.5, " poor": 0.5}, "positive": {" good": 1.0}}


@pytest.mark.parametrize("mapping", [{"type": "bayesian", "sources": 4}, {"type": "labels", "per_label": 2},
                                     {"type": "linear", "on": "source"}])  # fmt: skip
def test_source_labels_of_a_vocabulary_are_named(mapping: dict[str, Any]) -> None:
    base, tokenizer = tiny("llama")
    config = ReprogramConfig(program={"type": "none", "template": "{text}{answer}"}, mapping=mapping, labels=LABELS)
    model = get_reprogram_model(base, config, tokenizer)
    model.fit_mapping(ROWS)
    found = model.explain()["mapping"]["source labels"]
    assert set(found) == set(LABELS) and all(isinstance(name, str) for names in found.values() for name in names)
    assert all(isinstance(weight, float) for names in found.values() for weight in names.values())
    assert any(found.values())


def test_a_linear_map_of_classes_says_which_speak_for_a_label() -> None:
    base, tokenizer = tiny("llama-classifier")
    config = ReprogramConfig(mapping={"type": "linear", "on": "classes"}, labels=LABELS)
    model = get_reprogram_model(base, config, tokenizer)
    model.fit_mapping(ROWS)
    found = model.explain()["mapping"]["source labels"]
    assert {name for names in found.values() for name in names} <= set(base.config.id2label.values())
    # Two rows of a ridge map are each other's opposites: what speaks for one label speaks against the other.
    first, second = (found[label] for label in LABELS)
    assert min(first.values()) < 0 < max(first.values()) and len(first) == 5
    assert first == {name: pytest.approx(-weight, abs=2e-4) for name, weight in second.items()}
    sizes = [abs(weight) for weight in first.values()]
    assert sizes == sorted(sizes, reverse=True)


class TestRowsOfSymbols:
    """A `vocabulary` reads a symbol among its neighbours: rows say among which."""

    @staticmethod
    def _model(**mapping: Any) -> ReprogramModel:
        program = {"type": "vocabulary", "symbols": "os", "context": 3}
        base, tokenizer = tiny("bert")
        if not mapping:
            program["template"], mapping = "{text} it was{answer}", program_config("prompt").mapping.to_dict()
        return get_reprogram_model(base, ReprogramConfig(program=program, mapping=mapping), tokenizer)

    def test_the_commonest_neighbourhoods_come_first(self) -> None:
        """Of 'soso' and 'so' two begin with 's', then 'o', and two end so; 'oso' and 'sos' stand there once."""
        model = self._model()
        page = model.explain(["so so", {"text": "so", "label": "positive"}])
        found = [row["context"] for row in page["facts"]]
        assert found == [["", "s", "o"], ["s", "o", ""], ["s", "o", "s"], ["o", "s", "o"]]
        assert [row["symbol"] for row in page["facts"]] == ["s", "o", "o", "s"] and page["ratios"] == []
        assert all(isinstance(token, str) for row in page["facts"] for token in row["tokens"])
        assert "context ['', 's', 'o']" in str(page)
        assert [row["symbol"] for row in model.explain()["facts"]] == ["o", "s"]  # each alone

    def test_rows_of_masks_have_none(self) -> None:
        model = self._model(type="tokens", symbols=["o", "s"])
        assert model.explain("<mask>")["facts"] == []

    def test_rows_of_another_program_are_refused(self) -> None:
        model = self._model()
        model.add_adapter("other", model.peft_config["default"])
        with pytest.raises(UsageError, match=r"rows\[1\]\['adapter'\]: program 'other'.*'default'.*set_adapter"):
            model.explain(["so", {"text": "so", "adapter": "other"}])


class TestRatios:
    def test_rows_of_a_label_are_taken_together(self) -> None:
        """Energies of 0.1 and 0.3 beside 0.01 each: 20 and 29.5 dB; of both 10 log10((0.01 + 0.09) / 0.0002)."""
        model = _model("waveform")
        _constant(model, 0.01)
        found = model.explain([_row(0.1, "loud"), _row(0.3, "loud"), _row(0.01, "quiet")])["ratios"]
        assert [(row["label"], row["rows"]) for row in found] == [("quiet", 1), ("loud", 2)]  # labels in their order
        quiet, loud = found
        assert quiet["signal to program dB"] == quiet["lowest"] == pytest.approx(0, abs=1e-4)
        assert loud["signal to program dB"] == pytest.approx(10 * np.log10(0.1 / 2e-4), abs=1e-4)
        assert (loud["lowest"], loud["highest"]) == pytest.approx((20, 20 * np.log10(30)), abs=1e-4)

    def test_a_row_of_several_labels_counts_for_each(self) -> None:
        model = _model("waveform", kind="multi_label_classification")
        _constant(model, 0.01)
        found = model.explain([_row(0.1, ["loud", "quiet"]), _row(0.1, ["loud"])])["ratios"]
        assert [(row["label"], row["rows"]) for row in found] == [("quiet", 1), ("loud", 2)]

    def test_numbers_and_no_labels_are_one_group(self) -> None:
        for kind, label in (("regression", [1.0, 2.0]), ("single_label_classification", None)):
            model = _model("waveform", kind=kind)
            _constant(model, 0.01)
            (row,) = model.explain([_row(0.1, label)])["ratios"]
            assert row["label"] == "all rows" and row["signal to program dB"] == pytest.approx(20, abs=1e-4)

    def test_integers_by_their_names(self) -> None:
        model = _model("waveform")
        _constant(model, 0.01)
        (row,) = model.explain([_row(0.1, 0)], features=["loud", "quiet"])["ratios"]
        assert row["label"] == "loud"

    @pytest.mark.parametrize("family", ["hubert-encoder", "whisper-classifier"])
    def test_a_sound_that_is_pushed_on_is_no_difference(self, family: str) -> None:
        """Where the canvas grows, and where it cannot: only what stands before the sound is added."""
        model = _model({"type": "waveform_pad", "before": 100, "limit": 1.0}, family)
        _constant(model, 0.1)
        (row,) = model.explain([_row(0.1, "loud", 400)])["ratios"]
        assert row["signal to program dB"] == pytest.approx(10 * np.log10(4), abs=1e-4)

    def test_a_program_that_does_nothing_yet(self) -> None:
        (row,) = _model("waveform").explain([_row(0.1, "loud")])["ratios"]
        assert row["signal to program dB"] == 200

    def test_programs_that_change_no_wave_have_none(self) -> None:
        said = "explain.rows.*no program that changes a wave or reads neighbours: "
        with pytest.raises(UsageError, match=said + "latent_shift"):
            _model("latent_shift").explain(AUDIO_ROWS)
        with pytest.raises(UsageError, match=said + "prompt"):
            build(program_config("prompt"), "llama").explain(["good"])

    def test_rows_of_another_program_are_refused(self) -> None:
        model = _model("waveform")
        model.add_adapter("other", model.peft_config["default"])
        with pytest.raises(UsageError, match=r"rows\[1\]\['adapter'\]: program 'other'.*'default'.*set_adapter"):
            model.explain([_row(0.1, "loud"), {**_row(0.1, "loud"), "adapter": "other"}])
