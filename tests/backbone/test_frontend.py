"""Our front ends give what the transformers extractors give, and a gradient with it (S§8, S10-S18)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ASTFeatureExtractor,
    ClapFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.models.audio_spectrogram_transformer import feature_extraction_audio_spectrogram_transformer as ast
from transformers.models.speech_to_text import feature_extraction_speech_to_text as speech_to_text

from hf_reprogram.backbone.fbank import Fixed
from hf_reprogram.backbone.frontend import FRONTENDS, Frontend, frontend_of
from hf_reprogram.errors import BaseModelError, ConfigError, DataError


pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")  # of AST's 128: known, and Kaldi's own
TORCHAUDIO = importlib.util.find_spec("torchaudio") is not None
# How each extractor is made, and how it is called for several clips; Whisper and AST pad to their own length anyway.
EXTRACTORS: dict[str, Callable[[], Any]] = {
    "whisper": lambda: WhisperFeatureExtractor(feature_size=80),
    "whisper of 128 mels": lambda: WhisperFeatureExtractor(feature_size=128),
    "wav2vec2": lambda: Wav2Vec2FeatureExtractor(),
    "wav2vec2 with a mask": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True, padding_value=0.5),
    "raw": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False),
    "ast": lambda: ASTFeatureExtractor(),
    "ast of 128 frames": lambda: ASTFeatureExtractor(max_length=128, mean=-6.8, std=5.5),
    "ast as it comes": lambda: ASTFeatureExtractor(num_mel_bins=64, max_length=200, do_normalize=False),
    "wav2vec2-bert": lambda: SeamlessM4TFeatureExtractor(padding_value=1.0),  # 1 is what its checkpoint has
    "seamless of stride 3": lambda: SeamlessM4TFeatureExtractor(stride=3),
    "speech2text": lambda: Speech2TextFeatureExtractor(),
    "speech2text, means alone": lambda: Speech2TextFeatureExtractor(normalize_vars=False, padding_value=-1.0),
    "speech2text as it comes": lambda: Speech2TextFeatureExtractor(do_ceptral_normalize=False),
}
WAVES_AND_WHISPER = ("whisper", "whisper of 128 mels", "wav2vec2", "wav2vec2 with a mask", "raw")
ONE_OF_EACH = ("whisper", "wav2vec2", "wav2vec2 with a mask", "raw", "ast", "wav2vec2-bert", "speech2text")


def _tolerance(name: str) -> float:
    return 1e-5 if name in WAVES_AND_WHISPER else 1e-4


@cache
def noise(samples: int = 16000, scale: float = 0.1, seed: int = 0) -> Tensor:
    return scale * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@cache
def voiced(samples: int = 16000) -> Tensor:
    """Harmonics of a gliding pitch under an envelope, breath, and 100 ms of nothing in the middle."""
    t = np.arange(samples) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * t)) / 16000
    wave = sum(np.sin(k * phase) / k for k in range(1, 45)) * (0.09 + 0.06 * np.sin(2 * np.pi * 3 * t))
    wave = torch.tensor(wave, dtype=torch.float32) + noise(samples, 1e-3)
    wave[samples // 2 : samples // 2 + 1600] = 0
    return wave


@cache
def dark(samples: int = 16000) -> Tensor:
    """A loud voice without anything above 4 kHz: there a spectrum holds its own rounding and nothing else."""
    t = np.arange(samples) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * t)) / 16000
    return torch.tensor(sum(np.sin(k * phase) / k for k in range(1, 25)) * 0.1, dtype=torch.float32)


def sounds() -> dict[str, Tensor]:
    found = {f"voiced, {n} samples": voiced(n) for n in (16000, 12345, 176000)}
    return {**found, "noise": noise(), "quiet noise": noise(scale=1e-4), "dark": dark()}


def _extracted(extractor: Any, clips: list[Tensor], **options: Any) -> dict[str, Tensor]:
    if not isinstance(extractor, (WhisperFeatureExtractor, ASTFeatureExtractor)):
        options.setdefault("padding", True)
    clips = [clip.numpy() for clip in clips]
    return extractor(clips, sampling_rate=16000, return_tensors="pt", **options)


def _batch(clips: list[Tensor], filling: float = 0.0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(clip) for clip in clips])
    wave = torch.full((len(clips), int(lengths.max())), filling)
    for row, clip in zip(wave, clips, strict=True):
        row[: len(clip)] = clip
    return wave, lengths


def _assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float, what: str = "") -> None:
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(
            value, theirs[key].to(value.dtype), atol=tolerance, rtol=0, msg=lambda m, k=key: f"{what}, {k}: {m}"
        )


def _wanted(name: str) -> None:
    if name.startswith(("ast", "speech2text")) and not TORCHAUDIO:
        pytest.skip("needs torchaudio, whose Kaldi energies the extractor takes where it is installed")


# --- equal to the extractors ---


@pytest.mark.parametrize("name", EXTRACTORS)
def test_each_clip_by_itself(name: str) -> None:
    _wanted(name)
    extractor = EXTRACTORS[name]()
    frontend = frontend_of(extractor)
    for what, clip in sounds().items():
        ours = frontend.features(clip[None])
        _assert_equal(ours, _extracted(extractor, [clip]), _tolerance(name), what)
        assert ours[frontend.input_name].dtype == torch.float32


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_batch_of_several_lengths(name: str) -> None:
    """What lies behind a clip's end, here NaN, is none of it."""
    _wanted(name)
    extractor = EXTRACTORS[name]()
    clips = [clip for what, clip in sounds().items() if "176000" not in what] + [noise(16080), voiced(19317)]
    ours = frontend_of(extractor).features(*_batch(clips, torch.nan))
    _assert_equal(ours, _extracted(extractor, clips), _tolerance(name))


@pytest.mark.parametrize("name, tolerance", {"ast": 1e-4, "ast of 128 frames": 1e-4, "speech2text": 3e-4}.items())
def test_the_extractors_own_path_without_torchaudio(
    name: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is one for both: a program gives the same scores whether torchaudio is installed or not.

    The extractor's two paths lie up to 2e-4 apart, and further where a band holds rounding alone (`dark`).
    """
    monkeypatch.setattr(ast, "is_speech_available", lambda: False)
    monkeypatch.setattr(speech_to_text, "is_speech_available", lambda: False)
    extractor = EXTRACTORS[name]()
    assert hasattr(extractor, "mel_filters")
    clips = [clip for what, clip in sounds().items() if what != "dark"]
    _assert_equal(frontend_of(extractor).features(*_batch(clips)), _extracted(extractor, clips), tolerance)


@pytest.mark.parametrize("name", ["whisper", "ast of 128 frames"])
def test_a_clip_longer_than_the_canvas_is_cut_as_the_extractor_cuts_it(name: str) -> None:
    _wanted(name)
    extractor = EXTRACTORS[name]()
    frontend = frontend_of(extractor)
    clip = noise(frontend.canvas + 777)
    _assert_equal(frontend.features(clip[None]), _extracted(extractor, [clip]), _tolerance(name))


def test_whisper_on_a_shorter_canvas() -> None:
    """S13: the canvas is chosen in the open, two mel frames to a position, and is part of the identity."""
    extractor = WhisperFeatureExtractor()
    frontend = frontend_of(extractor, max_frames=200)
    assert (frontend.canvas, frontend_of(extractor).canvas) == (32000, 480000)
    assert (frontend.identity()["max_frames"], frontend_of(extractor).identity()["max_frames"]) == (200, 3000)
    clips = [voiced(), noise(12345), noise(32000), noise(31900), noise(40000)]
    theirs = _extracted(extractor, clips, max_length=32000)
    assert theirs["input_features"].shape == (5, 80, 200)
    _assert_equal(frontend.features(*_batch(clips)), theirs, 1e-5)


# --- each wrong choice is seen by these signals ---


def _set(path: str, value: Any) -> Callable[[Frontend], None]:
    def apply(frontend: Frontend) -> None:
        *way, name = path.split(".")
        if way == ["constants"]:
            frontend.constants[name] = value
        else:
            setattr(getattr(frontend, way[0]) if way else frontend, name, value)

    return apply


def _filters(scale: str, norm: str | None, low: float, bins: int, mels: int) -> Callable[[Frontend], None]:
    def apply(frontend: Frontend) -> None:
        frontend.mel.mel = Fixed(mel_filter_bank(bins, mels, low, 8000.0, 16000, norm=norm, mel_scale=scale))

    return apply


HANN = torch.hann_window(400, periodic=False)
WRONG = {
    "whisper: symmetric window": ("whisper", _set("mel.window", Fixed(HANN)), 1e-3),
    "whisper: htk mels": ("whisper", _filters("htk", "slaney", 0.0, 201, 80), 0.3),
    "whisper: filters of height 1": ("whisper", _filters("slaney", None, 0.0, 201, 80), 0.3),
    "whisper: no limit below the maximum": ("whisper", _set("RANGE", 100.0), 0.3),
    "ast: povey window": ("ast", _set("mel.window", Fixed(HANN.pow(0.85))), 0.01),
    "ast: periodic window": ("ast", _set("mel.window", Fixed(torch.hann_window(400))), 1e-3),
    "ast: 16-bit amplitudes": ("ast", _set("mel.scale", 2.0**15), 1.0),
    "ast: no pre-emphasis": ("ast", _set("mel.PREEMPHASIS", 0.0), 0.3),
    "ast: floor of Whisper": ("ast", _set("mel.FLOOR", 1e-10), 0.3),
    "ast: std not doubled": ("ast", _set("constants.std", 4.5689974 / 2), 0.5),
    "ast: triangles in hertz": ("ast", _filters("htk", None, 20.0, 257, 128), 5e-4),
    "wav2vec2-bert: hann window": ("wav2vec2-bert", _set("mel.window", Fixed(HANN)), 0.01),
    "wav2vec2-bert: plain amplitudes": ("wav2vec2-bert", _set("mel.scale", 1.0), 0.1),
    "speech2text: hann window": ("speech2text", _set("mel.window", Fixed(HANN)), 0.01),
    "wav2vec2: another epsilon": ("wav2vec2", _set("EPSILON", 1e-5), 1e-3),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_choice_would_be_seen(wrong: str) -> None:
    name, apply, least = WRONG[wrong]
    _wanted(name)
    extractor = EXTRACTORS[name]()
    frontend, clips = frontend_of(extractor), [voiced(), noise(scale=1e-2)]
    theirs = _extracted(extractor, clips)[frontend.input_name]
    apply(frontend)
    ours = frontend.features(torch.stack(clips))[frontend.input_name]
    assert (ours - theirs).abs().max() > least > 3 * _tolerance(name)


def test_whisper_takes_the_maximum_of_each_clip() -> None:
    """Taken over the batch, a loud mate lifts a quiet clip's floor."""
    frontend = frontend_of(WhisperFeatureExtractor(), max_frames=100)
    loud, quiet = noise(), noise(scale=1e-4)
    both = frontend.features(torch.stack([loud, quiet]))["input_features"]
    torch.testing.assert_close(both[1], frontend.features(quiet[None])["input_features"][0], atol=1e-6, rtol=0)
    assert both[0].min() > both[1].max()


def test_whisper_measures_power_within_two_units_of_the_maximum() -> None:
    frontend = frontend_of(WhisperFeatureExtractor(), max_frames=100)
    once, twice = (frontend.features(scale * noise()[None])["input_features"] for scale in (1.0, 2.0))
    torch.testing.assert_close(twice - once, torch.full_like(once, np.log10(4) / 4), atol=1e-5, rtol=0)
    with_silence = frontend.features(noise(4000)[None])["input_features"]
    assert float(with_silence.max() - with_silence.min()) == pytest.approx(2.0, abs=1e-6)


def test_whisper_frames_the_clip_together_with_the_silence_behind_it() -> None:
    """Framed alone, a clip's last frame would see the clip mirrored at its end."""
    frontend = frontend_of(WhisperFeatureExtractor())
    alone = frontend.features(noise(16000)[None])["input_features"]
    filled = frontend.features(torch.cat([noise(16000), torch.zeros(464000)])[None])["input_features"]
    assert alone.shape == (1, 80, 3000)
    torch.testing.assert_close(alone, filled, atol=1e-6, rtol=0)


def test_kaldi_removes_the_mean_of_each_frame() -> None:
    frontend = frontend_of(ASTFeatureExtractor(max_length=100))
    shifted, plain = (frontend.features(noise()[None] + offset)["input_values"] for offset in (0.3, 0.0))
    torch.testing.assert_close(shifted, plain, atol=1e-3, rtol=0)


def test_ast_pads_brighter_than_silence() -> None:
    """Padding is 0 before the normalisation; silence is ln(2^-23) = -15.9424."""
    values = frontend_of(ASTFeatureExtractor()).features(torch.zeros(1, 16000))["input_values"][0]
    assert values.shape == (1024, 128)
    torch.testing.assert_close(values[:98], torch.full((98, 128), -1.2776), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[98:], torch.full((926, 128), 0.4670), atol=1e-4, rtol=0)


def test_wav2vec2_bert_leaves_out_a_position_that_is_half_padding() -> None:
    features = frontend_of(SeamlessM4TFeatureExtractor(padding_value=1.0)).features(noise(400 + 74 * 160)[None])
    values, mask = features["input_features"][0], features["attention_mask"][0]
    assert values.shape == (38, 160)  # 75 frames
    assert mask.tolist() == [1] * 37 + [0]
    assert (values[-1, 80:] == 1.0).all() and (values[-1, :80] != 1.0).all()


def test_S11_statistics_follow_the_extractors_mask() -> None:
    """Without a mask the padding counts: the same clip in a wider row is another input."""
    narrow, wide = noise()[None], torch.cat([noise(), torch.zeros(8000)])[None]
    length = torch.tensor([16000])
    for masked in (True, False):
        frontend = frontend_of(Wav2Vec2FeatureExtractor(return_attention_mask=masked))
        one = frontend.features(narrow, length)["input_values"]
        other = frontend.features(wide, length)["input_values"][:, :16000]
        ratio = float(other.std() / one.std())
        assert ratio == pytest.approx(1.0 if masked else (24 / 16) ** 0.5, rel=1e-3)


# --- gradients ---


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_gradients_are_the_slopes(name: str) -> None:
    """In float64, which stays float64: the analytic slope beside the finite difference."""
    frontend = frontend_of(EXTRACTORS[name](), **({"max_frames": 4} if name == "whisper" else {}))
    wave = noise(2 * 720).double().view(2, 720).requires_grad_()
    lengths = torch.tensor([720, 600])

    def features(wave: Tensor) -> Tensor:
        return frontend.features(wave, lengths)[frontend.input_name]

    assert torch.autograd.gradcheck(features, wave, eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)
    (slope,) = torch.autograd.grad(features(wave).square().sum(), wave)
    assert (slope[:, 200:560] != 0).all() and (slope[1, 600:] == 0).all()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_S18_silence(name: str) -> None:
    """Features and slopes are finite on silence; where the extractor's are not, we say so before a model sees NaN."""
    extractor = EXTRACTORS[name]()
    frontend = frontend_of(extractor, **({"max_frames": 100} if name == "whisper" else {}))
    wave = torch.stack([noise(), torch.zeros(16000)]).requires_grad_()
    if name == "speech2text":
        with np.errstate(all="ignore"):
            assert not _extracted(extractor, [torch.zeros(16000)])["input_features"].isfinite().any()
        with pytest.raises(DataError, match="row 1 of the batch: a clip that is silent"):
            frontend.features(wave)
        return
    values = frontend.features(wave)[frontend.input_name]
    (slope,) = torch.autograd.grad(values.square().sum(), wave)
    assert values.isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("name, dead, alive", [("whisper", 0.0, 1e-3), ("ast", 1e-6, 1e-3), ("wav2vec2", None, 0.0)])
def test_S14_a_program_that_starts_at_zero_in_silence_is_dead_behind_log_mel(
    name: str, dead: float | None, alive: float
) -> None:
    """Why additive programs start at 1e-3 there, and may start at 0 where the wave itself is the input."""
    frontend = frontend_of(EXTRACTORS[name](), **({"max_frames": 200} if name == "whisper" else {}))
    wave = torch.cat([voiced(), torch.zeros(16000)])[None]

    def slope(start: float) -> Tensor:
        program = (start * torch.randn(1, 32000, generator=torch.Generator().manual_seed(1))).requires_grad_()
        values = frontend.features(wave + program)[frontend.input_name]
        weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(2))
        return torch.autograd.grad((values * weights).sum(), program)[0][0, 16400:31500]

    if dead is not None:
        assert (slope(dead) == 0).all()
    assert (slope(alive) != 0).float().mean() > 0.99


# --- numbers, devices, states ---


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_S15_float32_under_autocast_and_from_bfloat16(name: str) -> None:
    frontend = frontend_of(EXTRACTORS[name](), **({"max_frames": 100} if name == "whisper" else {}))
    wave = voiced()[None].bfloat16()
    expected = frontend.features(wave.float())[frontend.input_name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = frontend.features(wave)[frontend.input_name]
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_no_module_and_no_trace_of_predicting(name: str) -> None:
    """Nothing that could land in a state dict; constants first used under inference_mode can be trained through."""
    frontend = frontend_of(EXTRACTORS[name](), **({"max_frames": 100} if name == "whisper" else {}))
    assert not isinstance(frontend, nn.Module)
    with torch.inference_mode():
        frontend.features(noise()[None])
    frontend.features(noise()[None].requires_grad_())[frontend.input_name].sum().backward()


def test_spectrogram_programs_see_mels_before_frames() -> None:
    shapes = {}
    for name in ONE_OF_EACH:
        frontend = frontend_of(EXTRACTORS[name]())
        values = frontend.features(noise()[None])[frontend.input_name]
        turned = frontend.turned(values)
        assert torch.equal(frontend.turned(turned), values)
        if frontend.axes is None:
            assert turned is values
        else:
            assert turned.shape[1:] == tuple(values.shape[axis] for axis in frontend.axes)
            shapes[name] = tuple(turned.shape)
    assert shapes == {
        "whisper": (1, 80, 3000), "ast": (1, 128, 1024), "wav2vec2-bert": (1, 160, 49), "speech2text": (1, 80, 98),
    }  # fmt: skip


def test_canvas_and_shortest_clip() -> None:
    known = {name: (f.canvas, f.shortest) for name in ONE_OF_EACH for f in [frontend_of(EXTRACTORS[name]())]}
    assert known["whisper"] == (480000, 1) and known["wav2vec2"] == (None, 1)
    assert known["ast"] == (1023 * 160 + 400, 400)
    assert known["wav2vec2-bert"] == (None, 560) and known["speech2text"] == (None, 400)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_the_identity_is_json_and_tells_constants_apart(name: str) -> None:
    frontend = frontend_of(EXTRACTORS[name]())
    identity = frontend.identity()
    assert json.loads(json.dumps(identity)) == identity == frontend_of(EXTRACTORS[name]()).identity()
    assert identity["extractor"] in FRONTENDS and identity["sampling_rate"] == frontend.sampling_rate == 16000
    others = [frontend_of(EXTRACTORS[other]()).identity() for other in EXTRACTORS if other != name]
    assert identity not in others


# --- refusals ---


def _with(extractor: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(extractor, name, value)
    return extractor


@pytest.mark.parametrize(
    "make, message",
    {
        lambda: ClapFeatureExtractor(): "ClapFeatureExtractor is no feature extractor.*Known: 'ASTFeatureExtractor'",
        lambda: None: "NoneType is no feature extractor",
        lambda: Wav2Vec2FeatureExtractor(padding_side="left"): "pads on the left. Expected padding_side='right'",
        lambda: WhisperFeatureExtractor(dither=1e-4): "adds noise .*dither=0.0001.*Fix: extractor.dither = 0.0",
        lambda: WhisperFeatureExtractor(padding_value=1.0): "pads with 1.0. Expected silence",
        lambda: Speech2TextFeatureExtractor(dither=4.0): "adds noise",
        lambda: ASTFeatureExtractor(sampling_rate=8000): "works at 8000 Hz.*torchaudio.*Expected 16000 Hz",
        lambda: SeamlessM4TFeatureExtractor(stride=1): "stride=1",
        lambda: _without(WhisperFeatureExtractor(), "n_fft"): "WhisperFeatureExtractor has no 'n_fft'",
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_extractor_that_we_cannot_follow(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BaseModelError, match=f"processing_class: .*{message}"):
        frontend_of(make())


def _without(extractor: Any, name: str) -> Any:
    delattr(extractor, name)
    return extractor


@pytest.mark.parametrize("frames", [0, 3, 3002, 200.0, True])
def test_a_canvas_that_whisper_cannot_have(frames: Any) -> None:
    with pytest.raises(ConfigError, match=f"max_frames: {frames}. Expected an even number from 2 to 3000"):
        frontend_of(WhisperFeatureExtractor(), max_frames=frames)


def test_only_whispers_canvas_can_be_shortened() -> None:
    with pytest.raises(ConfigError, match="max_frames: 200 for ASTFeatureExtractor"):
        frontend_of(ASTFeatureExtractor(), max_frames=200)


@pytest.mark.parametrize(
    "wave, lengths, message",
    [
        (torch.zeros(2, 2, 900), None, r"wave: \(2, 2, 900\) of float32. Expected \(batch, samples\)"),
        (torch.zeros(2, 900, dtype=torch.int16), None, "of int16. Expected .* amplitudes from -1 to 1"),
        (torch.zeros(2, 900), torch.tensor([900]), r"lengths: shape \(1,\). Expected \(2,\)"),
        (torch.zeros(2, 900), torch.tensor([900, 901]), "row 1 of the batch: a clip of 901 samples in a row of 900"),
        (torch.zeros(2, 900), torch.tensor([559, 560]), "row 0 .* 559 samples.*at least 560 for SeamlessM4TFeature"),
        (torch.zeros(1, 300), None, "row 0 .* 300 samples.*at least 560"),
        (torch.zeros(1, 0), None, "row 0 .* 0 samples"),
    ],
)
def test_a_wave_that_has_no_features(wave: Tensor, lengths: Tensor | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frontend_of(SeamlessM4TFeatureExtractor()).features(wave, lengths)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_shortest_clip_has_finite_features(name: str) -> None:
    frontend = frontend_of(EXTRACTORS[name](), **({"max_frames": 4} if name == "whisper" else {}))
    if name == "speech2text":  # of one frame, the deviation is 0
        with pytest.raises(DataError, match="has one frame"):
            frontend.features(noise(frontend.shortest)[None])
        return
    assert frontend.features(noise(frontend.shortest)[None])[frontend.input_name].isfinite().all()
