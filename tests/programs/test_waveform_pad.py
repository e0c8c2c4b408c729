"""`waveform_pad`: what stands where, what a base of fixed length gives up for it, and the limit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs.waveform_pad import _Clamped
from hf_reprogram.testing import program_config, tiny


def _model(family: str = "wav2vec2-classifier", canvas: dict | None = None, **options: Any) -> ReprogramModel:
    config = copy.copy(program_config("none", family))
    config.program = ReprogramConfig(program={"type": "waveform_pad", **options}).program
    config.canvas = ReprogramConfig(canvas=canvas).canvas or config.canvas
    base, processor = tiny(family)
    return get_reprogram_model(base, config, processor)


def test_before_and_after_the_canvas_grows() -> None:
    model = _model(before=2, after=1, limit=0.5)
    program = model.active_programs()[0]
    with torch.no_grad():
        program.before.copy_(torch.tensor([0.1, 9.0]))
        program.after.copy_(torch.tensor([-9.0]))
    batch = Batch(input_values=torch.tensor([[1.0, 2.0, 0.0]]), signal_mask=torch.tensor([[True, True, False]]))
    found = program(batch, model.backbone)
    assert found.input_values.tolist() == [[pytest.approx(0.1), 0.5, 1.0, 2.0, 0.0, -0.5]]
    assert found.signal_mask.tolist() == [[False, False, True, True, False, False]]


def test_a_fixed_canvas_gives_up_padding_at_its_end() -> None:
    model = _model("whisper-seq2seq", before=4000, after=2000)
    program, wave = model.active_programs()[0], torch.arange(1.0, 16001.0).unsqueeze(0)
    batch = Batch(input_values=wave, signal_mask=wave <= 10000)
    found = program(batch, model.backbone).input_values
    assert found.shape == (1, 16000)
    assert torch.equal(found[:, 4000:14000], wave[:, :10000]) and found[:, 14000:].abs().max() <= 0.02


def test_a_signal_that_would_be_cut_names_its_row() -> None:
    model = _model("whisper-seq2seq", before=4000)
    rows = [{"audio": {"array": np.full(n, 0.1), "sampling_rate": 16000}} for n in (12000, 12001)]
    assert model.collator()(rows)["input_values"].shape == (2, 16000)
    with pytest.raises(DataError, match=r"rows\[1\] of the batch: its signal reaches into the last 4000 samples"):
        model(**model.collator()(rows))


def test_no_room_at_all_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="16000 and 0 samples on a canvas of 16000"):
        _model("whisper-seq2seq", before=16000)
    with pytest.raises(ConfigError, match="samples on one side at least"):
        _model(before=0)


def test_the_start_is_uniform_within_the_limit() -> None:
    program = _model().active_programs()[0]
    assert sum(p.numel() for p in program.parameters()) == 10240
    assert 0.0199 < program.before.max() <= 0.02 and -0.02 <= program.before.min() < -0.0199
    assert program.before.std().item() == pytest.approx(0.04 / 12**0.5, rel=0.02)


def test_a_sample_at_the_limit_can_come_back() -> None:
    """Beyond the limit a gradient that leads further out is cut; one that leads inwards is not."""
    x = torch.tensor([0.5, 2.0, 2.0, -2.0, -2.0], requires_grad=True)
    _Clamped.apply(x, 1.0).backward(torch.tensor([3.0, 3.0, -3.0, 3.0, -3.0]))
    assert x.grad.tolist() == [3.0, 3.0, 0.0, 0.0, -3.0]


def test_explain() -> None:
    program = _model(before=4, limit=0.1).active_programs()[0]
    with torch.no_grad():
        program.before.copy_(torch.tensor([0.1, -0.2, 0.1, 0.1]))
    (row,) = program.explain(None)
    assert row["side"] == "before" and row["level dB"] == pytest.approx(-20) and row["at the limit"] == 1.0
