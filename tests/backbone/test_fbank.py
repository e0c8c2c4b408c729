"""Kaldi's energies beside torchaudio's, and tensors that never change."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from hf_reprogram.backbone.fbank import Fixed, KaldiMel, kaldi_filters, kaldi_window


WINDOWS = {"hanning": kaldi_window(), "povey": kaldi_window(0.85), "rectangular": torch.ones(400)}


@pytest.mark.parametrize("mels", [23, 80, 128])
@pytest.mark.parametrize("window", WINDOWS)
def test_energies_are_torchaudios(window: str, mels: int) -> None:
    """To the last bits, also above 4 kHz, where this tone leaves nothing but rounding.

    The rectangular window shows a frame's first sample, which the others hide.
    """
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="torchaudio is the reference here")
    wave = torch.sin(torch.arange(12345) * 0.3)[None] * 0.5
    wave[:, 4000:6000] = 0
    ours = KaldiMel(WINDOWS[window], kaldi_filters(mels, 16000), 2.0**15)(wave)[0]
    theirs = kaldi.fbank(wave * 2**15, window_type=window, num_mel_bins=mels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_filters() -> None:
    """Triangles of height 1 from 20 Hz on; of 128, one falls between two frequencies."""
    filters = kaldi_filters(80, 16000)
    assert filters.shape == (257, 80) and (filters[0] == 0).all() and (filters[-1] == 0).all()
    assert 0.9 < float(filters.max()) <= 1 and (filters.sum(0) > 0).all()
    assert int((kaldi_filters(128, 16000).sum(0) == 0).sum()) == 1


def test_frames_and_samples() -> None:
    mel = KaldiMel(kaldi_window(), kaldi_filters(80, 16000), 1.0)
    assert [mel.frames(n) for n in (399, 400, 559, 560, 16000)] == [0, 1, 1, 2, 98]
    assert [mel.samples(n) for n in (1, 2, 98)] == [400, 560, 15920]
    assert mel.frames(torch.tensor([400, 16000])).tolist() == [1, 98]
    assert mel(torch.zeros(2, 16000)).shape == (2, 98, 80)


def test_fixed_tensors_are_made_once_for_each_type() -> None:
    fixed = Fixed(np.arange(3.0))
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert fixed.like(single) is fixed.like(single) and fixed.like(single).dtype == torch.float32
    assert fixed.like(double).dtype == torch.float64 and fixed.like(double).tolist() == [0.0, 1.0, 2.0]
    for again in (copy.deepcopy(fixed), pickle.loads(pickle.dumps(fixed))):
        assert torch.equal(again.like(single), fixed.like(single))


def test_fixed_tensors_made_under_inference_mode_can_be_trained_through() -> None:
    fixed, values = Fixed(np.arange(3.0)), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        fixed.like(values)
    (values * fixed.like(values)).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 2.0]
