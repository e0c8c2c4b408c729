"""Log-mel energies in torch, differentiable and batched: Whisper's and Kaldi's, and the fixed tensors they need."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Fixed:
    """Tensors that never change, copied once to each device and dtype that asks: no buffers, nothing in a state dict.

    Example:

        >>> window = Fixed(np.hanning(4))
        >>> window.like(torch.zeros(1)).dtype, window.like(torch.zeros(1)) is window.like(torch.ones(1))
        (torch.float32, True)
    """

    def __init__(self, array: np.ndarray | Tensor) -> None:
        self._own = torch.as_tensor(array, device="cpu")
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The tensor where `other` lies, in its dtype."""
        key = (other.device, other.dtype)
        if key not in self._copies:
            # A copy made while predicting under inference_mode could not be trained through afterwards.
            with torch.inference_mode(False):
                self._copies[key] = self._own.to(*key)
        return self._copies[key]


class WhisperMel:
    """Whisper's log-mel energies, before its clamp and scaling: log10(max(mel · |STFT|², 1e-10)).

    Args:
        mel: (frequencies, mels) filters.  n_fft: samples of a frame.  hop: samples from one frame to the next.
    """

    FLOOR = 1e-10

    def __init__(self, mel: np.ndarray, n_fft: int, hop: int) -> None:
        self.mel, self.n_fft, self.hop = Fixed(mel), n_fft, hop
        self.window = Fixed(torch.hann_window(n_fft, device="cpu"))  # periodic; a symmetric one errs by 0.017

    def __call__(self, wave: Tensor, canvas: int) -> Tensor:
        """(batch, samples) -> (batch, mels, canvas // hop): the wave cut to `canvas` samples, or filled with zeros.

        Frames that see none of the wave are at the floor; they are filled in, not computed.
        """
        heard = math.ceil((wave.shape[1] + self.n_fft // 2) / self.hop) * self.hop
        heard = min(heard, canvas)
        # Padded, then framed: the last frames of a clip reach into the silence behind it, not into its mirror image.
        wave = F.pad(wave, (0, heard - wave.shape[1]))  # (batch, heard); a negative pad cuts
        bins = torch.stft(wave, self.n_fft, self.hop, window=self.window.like(wave), return_complex=True)[..., :-1]
        power = bins.real.square() + bins.imag.square()  # (batch, frequencies, frames)
        log = (self.mel.like(wave).T @ power).clamp(min=self.FLOOR).log10()  # (batch, mels, frames)
        return F.pad(log, (0, canvas // self.hop - log.shape[-1]), value=math.log10(self.FLOOR))


class KaldiMel:
    """Kaldi's log-mel energies with its usual settings, as `torchaudio.compliance.kaldi.fbank` gives them.

    ln(max(mel · |rfft(window · preemphasis(frame − mean of frame))|², 2⁻²³)), frames that fit into the wave only.

    Args:
        window: (samples of a frame,).  mel: (frequencies, mels) filters.  scale: what the wave is multiplied by.
    """

    HOP, FFT, PREEMPHASIS, FLOOR = 160, 512, 0.97, 2.0**-23

    def __init__(self, window: np.ndarray | Tensor, mel: np.ndarray | Tensor, scale: float) -> None:
        self.length, self.window, self.mel, self.scale = len(window), Fixed(window), Fixed(mel), scale

    def frames(self, samples):
        """Number of frames that fit into so many samples: of an int or of a tensor."""
        return (samples - self.length) // self.HOP + 1

    def samples(self, frames: int) -> int:
        """Samples that so many frames span."""
        return (frames - 1) * self.HOP + self.length

    def __call__(self, wave: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, mels)"""
        frames = (wave * self.scale).unfold(1, self.length, self.HOP)  # (batch, frames, length)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)  # the first sample stands before itself
        frames = (frames - self.PREEMPHASIS * before) * self.window.like(wave)
        bins = torch.fft.rfft(frames, n=self.FFT)  # (batch, frames, frequencies)
        power = bins.real.square() + bins.imag.square()
        return (power @ self.mel.like(wave)).clamp(min=self.FLOOR).log()


def kaldi_window(power: float = 1.0) -> Tensor:
    """Kaldi's window of 25 ms at 16 kHz: the symmetric Hann window to a power, 0.85 for the one called povey."""
    return torch.hann_window(400, periodic=False, device="cpu").pow(power)


def kaldi_filters(mels: int, sampling_rate: int) -> Tensor:
    """Kaldi's triangles from 20 Hz to half the rate, straight in mels: (frequencies, mels). Of 128 one is empty.

    They and the window are made in float32 as torchaudio makes them. transformers' own in float64 would be 2e-4 off in
    a weak band, and half a unit in one that holds nothing but the rounding of a loud one.
    """
    frequencies = torch.arange(KaldiMel.FFT // 2, device="cpu") * (sampling_rate / KaldiMel.FFT)
    position = (1127.0 * (1.0 + frequencies / 700.0).log())[:, None]  # (frequencies, 1)
    low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (20.0, sampling_rate / 2))
    corners = low + torch.arange(mels + 2, device="cpu") * ((high - low) / (mels + 1))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]  # each (mels,)
    rising, falling = (position - left) / (centre - left), (right - position) / (right - centre)
    return F.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1))  # nothing at half the rate itself
