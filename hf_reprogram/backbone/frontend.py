"""What a base's feature extractor makes of a wave, in torch: differentiable, batched, on any device.

A program that changes the wave learns through this; equal to the transformers extractors to 1e-5 (waves, Whisper) and
1e-4 (Kaldi's energies). What the extractor knows is read from it, never assumed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BaseModelError, ConfigError, DataError, did_you_mean
from .fbank import KaldiMel, WhisperMel, kaldi_filters, kaldi_window


class Frontend:
    """From raw waves to the features that a base wants; row i is what the extractor makes of `wave[i, :lengths[i]]`.

    Plain object: no parameters, no buffers, no state dict. `constants` holds everything that was read.

    Args:
        extractor: the feature extractor of the base's checkpoint.
    """

    reads: ClassVar[tuple[str, ...]] = ()  # further attributes of the extractor
    input_name: ClassVar[str] = "input_values"  # under which the base takes the features
    axes: ClassVar[tuple[int, int] | None] = None  # (mel axis, time axis) of a spectrogram; None: they are a wave
    span: tuple[int, int, int] = (1, 0, 1)  # of a frame: samples to the next one, samples before its place, its length
    shortest: int = 1  # samples of the shortest clip that has features
    canvas: int | None = None  # samples of the base's fixed length: shorter clips are filled up, longer ones cut

    def __init__(self, extractor: Any) -> None:
        self.extractor = type(extractor).__name__
        names = ("sampling_rate", "padding_value", "padding_side", *self.reads)
        missing = [name for name in names if not hasattr(extractor, name)]
        if missing:
            raise self._refusal(f"has no {missing[0]!r}", "an extractor of transformers 5")
        self.constants = {name: getattr(extractor, name) for name in names}
        if self.constants["padding_side"] != "right":
            raise self._refusal(f"pads on the {self.constants['padding_side']}", "padding_side='right'")
        if self.constants.get("dither"):
            why = f"adds noise (dither={self.constants['dither']}), so that no two calls agree"
            raise self._refusal(why, "dither=0.0", "extractor.dither = 0.0")

    def _refusal(self, what: str, expected: str, fix: str | None = None) -> BaseModelError:
        return BaseModelError("processing_class", f"{self.extractor} {what}", expected, fix)

    @property
    def sampling_rate(self) -> int:
        """Samples per second that the base was trained on."""
        return self.constants["sampling_rate"]

    def identity(self) -> dict[str, Any]:
        """Everything that the features depend on, as plain JSON: part of an artefact's fingerprint."""
        return {"extractor": self.extractor, **self.constants}

    def features(self, wave: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """The base's inputs, in float32 whatever autocast and the wave's dtype say (float64 stays).

        Args:
            wave: (batch, samples) plain amplitude, about -1 to 1; what lies behind a row's length has no effect.
            lengths: (batch,) samples of each row; None: all of them. A program that fills the padding sets them.

        Raises:
            DataError: a wave or lengths of another form; a clip too short for one frame; for Speech2Text a silent one.
        """
        inside = self._inside(wave, lengths)  # (batch, samples)
        # Spectra refuse bfloat16, and a mel product in it would be wrong by 5e-3 to 3e-2 (S15).
        with torch.autocast(wave.device.type, enabled=False):
            wave = wave.to(torch.promote_types(wave.dtype, torch.float32))
            wave = torch.where(inside, wave, self.constants["padding_value"])
            return self._features(wave, inside)

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def turned(self, features: Tensor) -> Tensor:
        """Features as (batch, mels, frames); applied again, as the base wants them."""
        return features if self.axes in (None, (1, 2)) else features.transpose(1, 2)

    def holds(self, signal: Tensor, frames: int) -> Tensor:
        """(batch, frames): whether a frame hears any sample of the signal, from (batch, samples) of the same."""
        hop, before, length = self.span
        after = max((frames - 1) * hop + length - before - signal.shape[1], 0)
        heard = F.max_pool1d(F.pad(signal.float(), (before, after)), length, hop)
        return heard[:, :frames] > 0

    def _inside(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """(batch, samples): true where the clip is."""
        if wave.dim() != 2 or not wave.is_floating_point():
            given = f"{tuple(wave.shape)} of {str(wave.dtype).removeprefix('torch.')}"
            raise DataError("wave", given, "(batch, samples) of floats: one channel, amplitudes from -1 to 1")
        batch, samples = wave.shape
        if lengths is None:
            lengths = torch.full((batch,), samples, device=wave.device)
        if lengths.shape != (batch,):
            raise DataError("lengths", f"shape {tuple(lengths.shape)}", f"({batch},), one for each row")
        lengths = lengths.to(wave.device)
        wrong = (lengths < self.shortest) | (lengths > samples)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"row {row} of the batch",
                f"a clip of {int(lengths[row])} samples in a row of {samples}",
                f"at least {self.shortest} for {self.extractor}, and no more than the row has",
            )
        return torch.arange(samples, device=wave.device) < lengths[:, None]


class Waves(Frontend):
    """The wave itself, normalised or not: wav2vec2 and its kin, Moonshine.

    x' = (x - mean) / sqrt(var + 1e-7). An extractor that returns a mask takes mean and variance over each clip, and
    pads afterwards; one that returns none takes them over the padded row, padding included (S11): then the row's
    width, and so the canvas, is part of the result.
    """

    reads = ("do_normalize", "return_attention_mask")
    EPSILON = 1e-7

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        masked = self.constants["return_attention_mask"]
        if self.constants["do_normalize"]:
            clip = inside if masked else torch.ones_like(inside)
            centred, variance = _moments(wave, clip)
            normed = centred * (variance + self.EPSILON).rsqrt()
            wave = torch.where(clip, normed, self.constants["padding_value"])
        features = {"input_values": wave}  # (batch, samples)
        if masked:
            features["attention_mask"] = inside.long()
        return features


class Whisper(Frontend):
    """Whisper's log-mel spectrogram of a canvas: (batch, mels, frames), 30 seconds unless `max_frames` says less.

    (max(l, max(l) - 8) + 4) / 4 of l = log10 of the energies. The maximum is each clip's own, as in transformers and
    not as in openai-whisper, where a loud batch mate lifts a quiet clip by up to 0.86.

    Args:
        extractor: a WhisperFeatureExtractor.
        max_frames: frames of the canvas, twice the encoder positions of a base that was cut short (S13).
    """

    reads = ("feature_size", "n_fft", "hop_length", "n_samples", "dither")
    input_name = "input_features"
    axes = (1, 2)
    RANGE = 8.0

    def __init__(self, extractor: Any, max_frames: int | None = None) -> None:
        super().__init__(extractor)
        if self.constants["padding_value"]:
            raise self._refusal(f"pads with {self.constants['padding_value']}", "silence: padding_value=0.0")
        hop, full = self.constants["hop_length"], self.constants["n_samples"] // self.constants["hop_length"]
        if max_frames is None:
            self.canvas = self.constants["n_samples"]
        elif type(max_frames) is int and 2 <= max_frames <= full and max_frames % 2 == 0:
            self.canvas = max_frames * hop
        else:
            raise ConfigError("max_frames", repr(max_frames), f"an even number from 2 to {full}, two to a position")
        self.constants["max_frames"] = max_frames if max_frames is not None else full
        self.mel = WhisperMel(extractor.mel_filters, self.constants["n_fft"], hop)
        self.span = (hop, self.constants["n_fft"] // 2, self.constants["n_fft"])

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        log = self.mel(wave, self.canvas)  # (batch, mels, frames)
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - self.RANGE)
        return {"input_features": (log + 4.0) / 4.0}


class Kaldi(Frontend):
    """The common part of those that take Kaldi's energies: (batch, frames, mels)."""

    reads = ("num_mel_bins",)
    axes = (2, 1)
    fewest: ClassVar[int] = 1  # frames that a clip must have

    def __init__(self, extractor: Any, window: Any, mel: Any, scale: float) -> None:
        super().__init__(extractor)
        self.mel = KaldiMel(window, mel, scale)
        self.shortest = self.mel.samples(self.fewest)
        stride = self.constants.get("stride", 1)
        self.span = (self.mel.HOP * stride, 0, self.mel.samples(stride))

    def _energies(self, wave: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, mels), and (batch, frames, 1): true where a frame lies wholly in the clip."""
        energies = self.mel(wave)
        count = self.mel.frames(inside.sum(1))  # (batch,)
        return energies, (torch.arange(energies.shape[1], device=wave.device) < count[:, None])[..., None]

    def _only_16_khz(self) -> None:
        if self.sampling_rate != 16000:
            why = f"works at {self.sampling_rate} Hz, where what it gives depends on torchaudio's being installed"
            raise self._refusal(why, "16000 Hz")


class AST(Kaldi):
    """AST's spectrogram of exactly `max_length` frames: (batch, frames, mels), under the name of a wave.

    Missing frames are 0 before (f - mean) / (2 std): brighter than silence. The wave is not scaled to 16 bits.
    """

    reads = ("num_mel_bins", "max_length", "do_normalize", "mean", "std")

    def __init__(self, extractor: Any) -> None:
        mel = kaldi_filters(extractor.num_mel_bins, extractor.sampling_rate)
        super().__init__(extractor, kaldi_window(), mel, scale=1.0)
        self._only_16_khz()
        self.canvas = self.mel.samples(self.constants["max_length"])

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        energies, real = self._energies(wave[:, : self.canvas], inside[:, : self.canvas])
        energies = torch.where(real, energies, 0.0)
        energies = F.pad(energies, (0, 0, 0, self.constants["max_length"] - energies.shape[1]))
        if self.constants["do_normalize"]:
            energies = (energies - self.constants["mean"]) / (self.constants["std"] * 2)
        return {"input_values": energies}


class SeamlessM4T(Kaldi):
    """Wav2Vec2-BERT's features: each mel bin normalised over its clip, `stride` frames side by side.

    (batch, frames / stride, stride * mels). A last position that is only half real counts as padding.
    """

    reads = ("num_mel_bins", "stride", "return_attention_mask")
    input_name = "input_features"
    fewest = 2  # the variance is divided by one less than the frames
    EPSILON = 1e-7

    def __init__(self, extractor: Any) -> None:
        super().__init__(extractor, extractor.window, extractor.mel_filters, scale=2.0**15)
        if self.constants["stride"] < 2:
            raise self._refusal(f"has stride={self.constants['stride']}, and gives no mask then", "stride=2")

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        # The extractor's spectra are float64, and a quiet band beside a loud one shows it. Apple's GPUs have none.
        exact = wave if wave.device.type == "mps" else wave.double()
        energies, real = self._energies(exact, inside)
        energies = energies.to(wave.dtype)
        centred, variance = _moments(energies, real, less=1)
        normed = centred / (variance + self.EPSILON).sqrt()
        normed = torch.where(real, normed, self.constants["padding_value"])  # (batch, frames, mels)
        stride, odd = self.constants["stride"], normed.shape[1] % 2
        normed = F.pad(normed, (0, 0, 0, odd), value=self.constants["padding_value"])  # to an even number of frames
        real = F.pad(real, (0, 0, 0, odd))
        kept = normed.shape[1] // stride * stride
        stacked = normed[:, :kept].reshape(len(wave), kept // stride, -1)  # (batch, positions, stride * mels)
        features = {"input_features": stacked}
        if self.constants["return_attention_mask"]:
            features["attention_mask"] = real[:, 1:kept:stride, 0].long()
        return features


class Speech2Text(Kaldi):
    """Speech2Text's features: (batch, frames, mels), each mel bin shifted and scaled to its clip's mean and deviation.

    The deviation has nothing added to it, so that a silent clip is NaN in the extractor: here it is refused (S18).
    """

    reads = (
        "num_mel_bins", "dither", "do_ceptral_normalize", "normalize_means", "normalize_vars", "return_attention_mask",
    )  # fmt: skip
    input_name = "input_features"

    def __init__(self, extractor: Any) -> None:
        mel = kaldi_filters(extractor.num_mel_bins, extractor.sampling_rate)
        super().__init__(extractor, kaldi_window(0.85), mel, scale=2.0**15)
        self._only_16_khz()

    def _features(self, wave: Tensor, inside: Tensor) -> dict[str, Tensor]:
        energies, real = self._energies(wave, inside)
        if self.constants["do_ceptral_normalize"]:
            centred, variance = _moments(energies, real)
            shifted = centred if self.constants["normalize_means"] else energies
            if self.constants["normalize_vars"]:
                self._refuse_silence(energies, real)
                shifted = shifted / variance.sqrt()
            energies = shifted
        features = {"input_features": torch.where(real, energies, self.constants["padding_value"])}
        if self.constants["return_attention_mask"]:
            features["attention_mask"] = real[..., 0].long()
        return features

    def _refuse_silence(self, energies: Tensor, real: Tensor) -> None:
        """A bin that never changes has no deviation; rounding may hide that from a comparison with 0."""
        first = energies[:, :1]
        still = torch.where(real, energies == first, True).all(1).any(1)  # (batch,)
        if still.any():
            raise DataError(
                f"row {int(still.nonzero()[0])} of the batch",
                "a clip that is silent, or has one frame, or a band without sound",
                f"some sound in each band: {self.extractor} divides by its deviation over the clip, which is 0",
            )


FRONTENDS: dict[str, type[Frontend]] = {
    "WhisperFeatureExtractor": Whisper,
    "ASTFeatureExtractor": AST,
    "SeamlessM4TFeatureExtractor": SeamlessM4T,
    "Speech2TextFeatureExtractor": Speech2Text,
    "Wav2Vec2FeatureExtractor": Waves,
}


def frontend_of(extractor: Any, max_frames: int | None = None) -> Frontend:
    """The front end that does what a feature extractor of transformers does.

    Args:
        extractor: the base's own; its constants are read here, once.
        max_frames: mel frames of a Whisper base that was cut short, twice its encoder positions; None: all of them.

    Raises:
        BaseModelError: an extractor of a class that we do not know, or with settings that we cannot follow.
        ConfigError: `max_frames` out of range, or for another extractor than Whisper's.

    Example:

        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> frontend = frontend_of(Wav2Vec2FeatureExtractor(return_attention_mask=True))
        >>> features = frontend.features(torch.tensor([[0.1, -0.1, 0.0]]), torch.tensor([2]))
        >>> features["input_values"].round().tolist(), features["attention_mask"].tolist()
        ([[1.0, -1.0, 0.0]], [[1, 1, 0]])
    """
    name = type(extractor).__name__
    if name not in FRONTENDS:
        raise BaseModelError(
            "processing_class",
            f"{name} is no feature extractor that we can compute in torch",
            fix=did_you_mean(name, FRONTENDS),
        )
    if FRONTENDS[name] is Whisper:
        return Whisper(extractor, max_frames)
    if max_frames is not None:
        raise ConfigError("max_frames", f"{max_frames} for {name}", "none: only Whisper's canvas can be shortened")
    return FRONTENDS[name](extractor)


def _moments(values: Tensor, real: Tensor, less: int = 0) -> tuple[Tensor, Tensor]:
    """Values minus their mean over the real positions of axis 1, and the variance: its sum over their number - less.

    Args:
        values: (batch, time, ...).  real: what can be broadcast to them.
    """
    count = real.sum(1, keepdim=True)
    centred = values - torch.where(real, values, 0.0).sum(1, keepdim=True) / count
    return centred, torch.where(real, centred, 0.0).square().sum(1, keepdim=True) / (count - less)
