"""`waveform_fir`, `waveform_conv`, `waveform_unet`: formulas by hand, sizes, and starts that change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_reprogram.backbone import backbone_of
from hf_reprogram.batch import Batch
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.programs.base import WaveProgram, decibels
from hf_reprogram.registry import build, method_class
from hf_reprogram.testing import tiny


NAMES = ["waveform_fir", "waveform_conv", "waveform_unet"]


def _program(name: str, seed: int | None = 0, **options: Any) -> WaveProgram:
    """A program; with a seed, started."""
    backbone = backbone_of(*tiny("wav2vec2-classifier"))
    program = method_class("program", name)(build("program", {"type": name, **options}, ""), backbone, 1.0)
    if seed is not None:
        program.initialise(backbone, torch.Generator().manual_seed(seed))
    return program


def _heard(program: WaveProgram, wave: Tensor) -> Tensor:
    return program(Batch(input_values=wave), None).input_values


@pytest.mark.parametrize(("name", "count"), list(zip(NAMES, (129, 4945, 19521), strict=True)))
def test_sizes(name: str, count: int) -> None:
    """S§7.1."""
    assert sum(p.numel() for p in _program(name).parameters()) == count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, 63, 1000, 16000])
def test_a_fresh_one_leaves_the_wave_as_it_is(name: str, samples: int) -> None:
    wave = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_heard(_program(name), wave), wave)


def test_a_filter_is_a_convolution_of_the_same_length() -> None:
    program = _program("waveform_fir", taps=3)
    with torch.no_grad():
        program.response.copy_(torch.tensor([1.0, 10.0, 100.0]))  # y[t] = w0 x[t + 1] + w1 x[t] + w2 x[t - 1]
    assert _heard(program, torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[12.0, 123.0, 230.0]]
    long = torch.randn(40, generator=torch.Generator().manual_seed(0))
    expected = np.convolve(long.numpy(), [1.0, 10.0, 100.0], mode="same")
    np.testing.assert_allclose(_heard(program, long.unsqueeze(0))[0].detach().numpy(), expected, rtol=1e-4)


def test_a_filter_says_its_gain() -> None:
    program = _program("waveform_fir", taps=3)
    with torch.no_grad():
        program.response.copy_(torch.tensor([0.5, 0.0, 0.5]))  # |cos w|: full at both ends, nothing in the middle
    rows = program.explain(backbone_of(*tiny("wav2vec2-classifier")))
    assert [r["hertz"] for r in rows] == [1000 * i for i in range(9)]
    assert rows[0]["gain dB"] == pytest.approx(0) and rows[4]["gain dB"] < -100
    assert rows[2]["gain dB"] == pytest.approx(decibels(2**-0.5))


class TestEqualiser:
    """`estimate`: the filter after which some rows have the mean spectrum of others."""

    def rows(self, seed: int = 0) -> Tensor:
        return torch.randn(8, 4000, generator=torch.Generator().manual_seed(seed))

    def test_of_rows_that_are_too_quiet_it_is_a_factor(self) -> None:
        program, rows = _program("waveform_fir", taps=9), self.rows()
        program.estimate(rows, 3 * rows)
        assert program.response.tolist() == pytest.approx([0, 0, 0, 0, 3, 0, 0, 0, 0], abs=1e-6)

    def test_of_filtered_rows_it_undoes_the_filter(self) -> None:
        """x[t] + x[t - 1] / 2 has the gain |1 + e^(-iw) / 2|: 1.5 at 0 Hz, 0.5 at 8 kHz."""
        program, rows = _program("waveform_fir", taps=65), self.rows()
        channel = rows.clone()
        channel[:, 1:] += rows[:, :-1] / 2
        program.estimate(channel, self.rows(seed=1))  # other rows of the same kind
        gain = torch.fft.rfft(program.response, n=1024).abs()
        assert gain[[0, 256, 512]].tolist() == pytest.approx([1 / 1.5, 1.25**-0.5, 2.0], rel=0.1)
        assert _heard(program, channel).std().item() == pytest.approx(rows.std().item(), rel=0.02)

    def test_it_delays_nothing(self) -> None:
        program = _program("waveform_fir", taps=33)
        program.estimate(self.rows(), self.rows(seed=1).cumsum(1))
        assert torch.allclose(program.response, program.response.flip(0), atol=1e-5)

    def test_a_filter_of_one_number_is_the_loudness(self) -> None:
        program = _program("waveform_fir", taps=1)
        program.estimate(torch.full((1, 4), 0.5), torch.tensor([[2.0, -2.0]]))
        assert program.response.item() == pytest.approx(4)

    def test_what_the_channel_left_nothing_of_is_not_raised_without_limit(self) -> None:
        """A constant has no power above 0 Hz, apart from the window's: 80 dB below is the least that counts."""
        program = _program("waveform_fir", taps=65)
        program.estimate(torch.ones(1, 4000), self.rows())
        assert torch.isfinite(program.response).all() and program.response.abs().max() < 1e4

    @pytest.mark.parametrize(
        ("waves", "wanted", "told"),
        [
            (torch.ones(2, 8), torch.ones(2, 9), r"estimate\(waves\): rows of 8 samples. .*at least 9"),
            (torch.ones(2, 9), torch.zeros(2, 9), r"estimate\(wanted\): silence"),
        ],
    )
    def test_rows_that_say_nothing_are_refused(self, waves: Tensor, wanted: Tensor, told: str) -> None:
        with pytest.raises(DataError, match=told):
            _program("waveform_fir", taps=9).estimate(waves, wanted)


def test_a_conv_of_one_channel_by_hand() -> None:
    program = _program("waveform_conv", seed=None, channels=1, kernel=1, depth=1)
    with torch.no_grad():
        for parameter, value in zip([*program.kernels, *program.biases], (2.0, 3.0, 0.5, 0.25), strict=True):
            parameter.fill_(value)
    gelu = torch.nn.functional.gelu(torch.tensor(2 * 4.0 + 0.5))
    assert _heard(program, torch.tensor([[4.0]])).item() == pytest.approx(4 + 3 * gelu.item() + 0.25)


def test_a_unet_of_one_level_by_hand() -> None:
    """One level down by 2 and up again: conv, gelu, linear interpolation, conv; no skip at the last level."""
    program = _program("waveform_unet", seed=None, channels=[1], kernel=1, stride=2)
    with torch.no_grad():
        for parameter, value in zip([*program.kernels, *program.biases], (1.0, 1.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
    a, b = torch.nn.functional.gelu(torch.tensor([10.0, 30.0])).tolist()
    between = [a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b]
    found = _heard(program, torch.tensor([[10.0, 20.0, 30.0, 40.0]]))
    assert found[0].tolist() == pytest.approx([x + u for x, u in zip((10, 20, 30, 40), between, strict=True)])


def test_a_unet_s_skips_are_added() -> None:
    """With the last but one convolution at zero, all that reaches the last one is the skip of the finest level."""
    program = _program("waveform_unet", seed=None, channels=[1, 1], kernel=1, stride=2)
    with torch.no_grad():
        program.kernels[0].fill_(1.0)
        program.kernels[-1].fill_(1.0)
    found = _heard(program, torch.tensor([[10.0, 0.0, 30.0, 0.0]]))
    a, b = torch.nn.functional.gelu(torch.tensor([10.0, 30.0])).tolist()
    assert found[0].tolist() == pytest.approx([10 + a, 0.75 * a + 0.25 * b, 30 + 0.25 * a + 0.75 * b, b])


@pytest.mark.parametrize("name", NAMES)
def test_after_a_step_all_learn(name: str) -> None:
    program, wave = _program(name), torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in program.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    _heard(program, wave).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in program.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_reach_the_wave_s15(name: str) -> None:
    program, wave = _program(name), torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in program.parameters():
            p.add_(0.1)
        expected = _heard(program, wave)
        with torch.autocast("cpu", torch.bfloat16):
            found = _heard(program, wave)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("waveform_fir", {"taps": 128}, "129 would do"),
        ("waveform_conv", {"kernel": 8}, "9 would do"),
        ("waveform_unet", {"kernel": 4}, "5 would do"),
        ("waveform_unet", {"channels": []}, "numbers from 1"),
    ],
)
def test_options(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build("program", {"type": name, **options}, "program")
