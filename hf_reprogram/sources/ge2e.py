"""The GE2E speaker encoder: a wave in, one vector of 256 numbers out, near to those of the same speaker.

Importing this file registers it: `AutoModel.from_pretrained(folder)` then finds it.

Layers (Wan et al., arXiv 1710.10467; the weights are Resemblyzer's): loudness set to -30 dBFS → mel energies, no
logarithm → windows of 1.6 s → three LSTMs, last step → linear layer, ReLU, length 1 → mean of the windows, length 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from ..errors import DataError
from .parts import Lstm, MelSpectrum, SourceModel


class Ge2eConfig(PreTrainedConfig):
    """Sizes of the speaker encoder; the defaults are those of the published network.

    Args:
        sampling_rate: of the wave, in Hz.
        n_fft, hop_length: samples per STFT frame, and between frames.
        num_mel_bins: Slaney mel bands from 0 Hz to half the rate.
        level_dbfs: loudness that every clip is brought to, in dB below full scale.
        hidden_size, num_hidden_layers: of the LSTMs; also the width of the embedding.
        window_frames, window_step: frames per window, and from one window to the next.

    Example:

        >>> Ge2eConfig().hidden_size
        256
    """

    model_type = "ge2e"

    sampling_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 160
    num_mel_bins: int = 40
    level_dbfs: float = -30.0
    hidden_size: int = 256
    num_hidden_layers: int = 3
    window_frames: int = 160
    window_step: int = 80


class Ge2eModel(SourceModel):
    """The speaker encoder.

    `forward(input_values)` takes a wave (batch, samples) at 16 kHz. `pooler_output` (batch, 256) is the embedding, of
    length 1 and without negative entries; `last_hidden_state` (batch, windows, 256) are those of its windows. A clip
    below 1.6 s is one window as short as it is; of longer ones, what is left after the last whole window is not heard.

    Example:

        >>> import torch
        >>> config = Ge2eConfig(num_mel_bins=8, hidden_size=6, num_hidden_layers=2, window_frames=20, window_step=10)
        >>> output = Ge2eModel(config).eval()(torch.randn(2, 6400))  # 41 frames
        >>> tuple(output.last_hidden_state.shape), tuple(output.pooler_output.shape)
        ((2, 3, 6), (2, 6))
    """

    config_class = Ge2eConfig

    def __init__(self, config: Ge2eConfig) -> None:
        super().__init__(config)
        self.spectrum = MelSpectrum(
            config.n_fft, config.hop_length, 2, num_mel_filters=config.num_mel_bins, min_frequency=0.0,
            max_frequency=config.sampling_rate / 2, sampling_rate=config.sampling_rate, norm="slaney",
            mel_scale="slaney",
        )  # fmt: skip
        self.lstm = Lstm(config.num_mel_bins, config.hidden_size, config.num_hidden_layers, batch_first=True)
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    @can_return_tuple
    def forward(self, input_values: Tensor) -> BaseModelOutputWithPooling:
        """Embeddings of clips and of their windows; see the class for shapes.

        Raises:
            DataError: not a batch of waves, or waves of no samples.
        """
        if input_values.ndim != 2 or not input_values.shape[1]:
            raise DataError("input_values", f"shape {tuple(input_values.shape)}", "(batch, samples)")
        loudness = input_values.float().square().mean(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
        wave = input_values * (10 ** (self.config.level_dbfs / 20) / loudness)
        half = self.config.n_fft // 2  # zeros before and after, so that frames are centred
        bands = self.spectrum(functional.pad(wave, (half, half)))  # (batch, frames, bands)

        size = min(self.config.window_frames, bands.shape[1])
        windows = bands.unfold(1, size, self.config.window_step).mT  # (batch, windows, size, bands)
        values = windows.flatten(0, 1).to(self.linear.bias.dtype)  # (batch × windows, size, bands)
        last = self.lstm(values)[:, -1]  # (batch × windows, hidden)
        vectors = functional.normalize(functional.relu(self.linear(last)), dim=-1)
        vectors = vectors.unflatten(0, windows.shape[:2])  # (batch, windows, hidden)
        return BaseModelOutputWithPooling(
            last_hidden_state=vectors, pooler_output=functional.normalize(vectors.mean(dim=1), dim=-1)
        )


AutoConfig.register("ge2e", Ge2eConfig, exist_ok=True)
AutoModel.register(Ge2eConfig, Ge2eModel, exist_ok=True)
