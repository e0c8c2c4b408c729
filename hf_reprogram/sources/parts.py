"""What the source models share: how they start, mel spectra, an LSTM that can be frozen on a GPU, the extractor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank


class MelSpectrum(nn.Module):
    """|STFT|^power of a wave, gathered in mel bands; differentiable, in float32 whatever the model's dtype.

    The bank is saved with the weights: a checkpoint keeps the very numbers that it was trained on.

    Args:
        n_fft: samples per frame; the window is a periodic Hann window of that length.
        hop: samples from one frame to the next.
        power: 1 for magnitudes, 2 for energies.
        bank: what transformers' `mel_filter_bank` takes beside the number of frequencies.

    Example:

        >>> mel = MelSpectrum(8, 4, 1, num_mel_filters=2, min_frequency=0, max_frequency=8000, sampling_rate=16000)
        >>> mel(torch.zeros(3, 16)).shape  # frames start at 0, 4 and 8
        torch.Size([3, 3, 2])
    """

    def __init__(self, n_fft: int, hop: int, power: int, **bank: float | str | bool) -> None:
        super().__init__()
        self.n_fft, self.hop, self.power, self.bank = n_fft, hop, power, bank
        self.register_buffer("mel", torch.empty(n_fft // 2 + 1, int(bank["num_mel_filters"])))
        self.reset()

    def reset(self) -> None:
        """Compute the bank; transformers makes modules without content and asks for it where a checkpoint has none."""
        bank = mel_filter_bank(self.n_fft // 2 + 1, **self.bank)
        init.copy_(self.mel, torch.from_numpy(bank).to(self.mel.dtype))

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, bands); no frame reaches over the end."""
        # In half precision the FFT fails on the CPU, and log-mels are wrong in the third digit.
        with torch.autocast(wave.device.type, enabled=False):
            window = torch.hann_window(self.n_fft, periodic=True, device=wave.device)
            frames = wave.float().unfold(-1, self.n_fft, self.hop) * window  # (batch, frames, n_fft)
            spectrum = torch.fft.rfft(frames)  # (batch, frames, n_fft // 2 + 1)
            size = spectrum.abs() if self.power == 1 else spectrum.real.square() + spectrum.imag.square()
            return size @ self.mel.float()  # (batch, frames, bands)


class SourceModel(PreTrainedModel):
    """A model that takes a wave as `input_values` (batch, samples).

    Without a checkpoint its layers keep the size of what flows through them (Glorot). Transformers' own start, a
    deviation of 0.02 everywhere, would leave nothing of the input after six narrow layers.
    """

    main_input_name = "input_values"

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, MelSpectrum):
            module.reset()


class Lstm(nn.LSTM):
    """An LSTM without dropout, through which a frozen model's gradient flows on a GPU too.

    cuDNN keeps what the backward pass needs in train mode alone, and raises otherwise. Without dropout both modes
    compute the same, so the call may say "train" while the module, like its whole frozen model, stays in eval mode.
    """

    def forward(self, values: Tensor) -> Tensor:
        """(batch, time, features) → (batch, time, hidden × directions), from a zero state."""
        mode, self.training = self.training, True
        try:
            return super().forward(values)[0]
        finally:
            self.training = mode


def feature_extractor(config: PreTrainedConfig) -> Wav2Vec2FeatureExtractor:
    """The processing class of a source model: waves pass as they are, at the model's rate, and are padded with zeros.

    Example:

        >>> from hf_reprogram.sources import CrepeConfig
        >>> feature_extractor(CrepeConfig())([0.5, -0.5], sampling_rate=16000).input_values[0].tolist()
        [0.5, -0.5]
    """
    return Wav2Vec2FeatureExtractor(sampling_rate=config.sampling_rate, do_normalize=False)
