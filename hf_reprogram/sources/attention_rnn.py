"""The attention-RNN keyword spotter, which Voice2Series and AR-SCR reprogram: a wave in, 36 words out.

Importing this file registers it: `AutoModelForAudioClassification.from_pretrained(folder)` then finds it.

Layers (de Andrade et al., arXiv 1808.08929): log-mel standardised per clip → two convolutions over time → two
bidirectional LSTMs → one attention head, whose query is the last time step → two linear layers → logits. The papers on
reprogramming use this network behind another front end, and other weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from ..errors import DataError
from .parts import Lstm, MelSpectrum, SourceModel


class AttentionRnnConfig(PreTrainedConfig):
    """Sizes of the keyword spotter; the defaults are those of the published network.

    Args:
        sampling_rate: of the wave, in Hz.
        input_samples: length of the clips that it was trained on. Other lengths work.
        n_fft, hop_length: samples per STFT frame, and between frames.
        num_mel_bins, min_frequency, max_frequency: HTK mel bands, and their range in Hz.
        log_offset: added to a magnitude before the logarithm.
        conv_channels, conv_kernel: of the two convolutions over time; the kernel is odd.
        lstm_hidden: units per direction.
        hidden_dims: widths of the two linear layers before the output.
        batch_norm_eps: of the batch norms, which never update their statistics.

    Example:

        >>> config = AttentionRnnConfig(num_labels=36)
        >>> config.num_labels, config.hidden_dims
        (36, (64, 32))
    """

    model_type = "attention_rnn"

    sampling_rate: int = 16000
    input_samples: int = 16000
    n_fft: int = 1024
    hop_length: int = 128
    num_mel_bins: int = 80
    min_frequency: float = 40.0
    max_frequency: float = 8000.0
    log_offset: float = 1e-6
    conv_channels: int = 10
    conv_kernel: int = 5
    lstm_hidden: int = 64
    hidden_dims: tuple[int, int] | list[int] = (64, 32)
    batch_norm_eps: float = 1e-3

    @property
    def hidden_size(self) -> int:
        """Width of the recurrent layers' output."""
        return 2 * self.lstm_hidden

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Widths of `hidden_states`, which differ."""
        return (self.num_mel_bins, self.hidden_size, self.hidden_size, *self.hidden_dims)


class _LogMel(nn.Module):
    """Log-mel spectrum whose clips have mean 0 and deviation 1 each."""

    def __init__(self, config: AttentionRnnConfig) -> None:
        super().__init__()
        self.n_fft, self.hop, self.offset = config.n_fft, config.hop_length, config.log_offset
        self.spectrum = MelSpectrum(
            config.n_fft, config.hop_length, 1, num_mel_filters=config.num_mel_bins,
            min_frequency=config.min_frequency, max_frequency=config.max_frequency,
            sampling_rate=config.sampling_rate, mel_scale="htk", triangularize_in_mel_space=True,
        )  # fmt: skip

    def forward(self, wave: Tensor) -> Tensor:
        frames = -(-wave.shape[-1] // self.hop)  # one begins every hop, as long as there is signal
        wave = functional.pad(wave, (0, (frames - 1) * self.hop + self.n_fft - wave.shape[-1]))
        bands = torch.log(self.spectrum(wave) + self.offset)  # (batch, frames, bands)
        # Keras took mean and deviation over the whole batch, so that a clip's score hung on its batch mates; per clip
        # is the same for a batch of one. A silent clip has no deviation: it stays at 0, not at rounding noise.
        deviation, mean = torch.std_mean(bands, dim=(1, 2), correction=0, keepdim=True)
        return (bands - mean) / deviation.clamp_min(1e-5)


class AttentionRnnForAudioClassification(SourceModel):
    """The keyword spotter with its 36 outputs.

    `forward(input_values, output_hidden_states=False)` takes a wave (batch, samples) at 16 kHz in [-1, 1], zero-padded
    to one length: there is no mask. With `output_hidden_states`, `hidden_states` are, in order:

    | index | what | shape | published |
    | --- | --- | --- | --- |
    | 0 | standardised log-mel | (batch, frames, bands) | 125 frames of 80 |
    | 1 | after the LSTMs | (batch, frames, 2 × hidden) | 128 wide |
    | 2 (-3) | attention's context vector | (batch, 1, 2 × hidden) | 128 |
    | 3 (-2) | first linear layer, after ReLU | (batch, 1, first) | 64 |
    | 4 (-1) | second linear layer, input of the output layer | (batch, 1, second) | 32 |

    A batch norm always uses its stored statistics, in train mode too.

    Example:

        >>> config = AttentionRnnConfig(num_labels=3, num_mel_bins=8, lstm_hidden=4, hidden_dims=(6, 5))
        >>> model = AttentionRnnForAudioClassification(config).eval()
        >>> output = model(torch.randn(2, 4000), output_hidden_states=True)
        >>> [tuple(state.shape) for state in output.hidden_states], tuple(output.logits.shape)
        ([(2, 32, 8), (2, 32, 8), (2, 1, 8), (2, 1, 6), (2, 1, 5)], (2, 3))
    """

    config_class = AttentionRnnConfig

    def __init__(self, config: AttentionRnnConfig) -> None:
        super().__init__(config)
        mels, channels, hidden = config.num_mel_bins, config.conv_channels, config.lstm_hidden
        kernel, padding = (config.conv_kernel, 1), (config.conv_kernel // 2, 0)
        first, second = config.hidden_dims

        self.features = _LogMel(config)
        self.conv1 = nn.Conv2d(1, channels, kernel, padding=padding)
        self.bn1 = nn.BatchNorm2d(channels, eps=config.batch_norm_eps)
        self.conv2 = nn.Conv2d(channels, 1, kernel, padding=padding)
        self.bn2 = nn.BatchNorm2d(1, eps=config.batch_norm_eps)
        self.rnn1 = Lstm(mels, hidden, batch_first=True, bidirectional=True)
        self.rnn2 = Lstm(2 * hidden, hidden, batch_first=True, bidirectional=True)
        self.query = nn.Linear(2 * hidden, 2 * hidden)
        self.fc1 = nn.Linear(2 * hidden, first)
        self.fc2 = nn.Linear(first, second)
        self.output = nn.Linear(second, config.num_labels)
        self.post_init()

    def train(self, mode: bool = True) -> AttentionRnnForAudioClassification:
        """Train or eval mode, the batch norms apart: what they measured on speech commands stays."""
        super().train(mode)
        self.bn1.eval()
        self.bn2.eval()
        return self

    @can_return_tuple
    def forward(self, input_values: Tensor, output_hidden_states: bool | None = None) -> SequenceClassifierOutput:
        """Logits of the words; see the class for shapes.

        Raises:
            DataError: not a batch of waves, or waves of no samples.
        """
        if input_values.ndim != 2 or not input_values.shape[1]:
            raise DataError("input_values", f"shape {tuple(input_values.shape)}", "(batch, samples)")
        features = self.features(input_values)  # (batch, frames, bands)

        values = features.to(self.conv1.bias.dtype).unsqueeze(1)  # (batch, 1, frames, bands)
        values = self.bn1(functional.relu(self.conv1(values)))  # (batch, channels, frames, bands)
        values = self.bn2(functional.relu(self.conv2(values))).squeeze(1)  # (batch, frames, bands)

        values = self.rnn2(self.rnn1(values))  # (batch, frames, 2 hidden)
        query = self.query(values[:, -1:])  # (batch, 1, 2 hidden)
        weights = torch.softmax(query @ values.mT, dim=-1)  # (batch, 1, frames)
        context = weights @ values  # (batch, 1, 2 hidden)

        first = functional.relu(self.fc1(context))  # (batch, 1, first)
        second = self.fc2(first)  # (batch, 1, second)
        logits = self.output(second).squeeze(1)  # (batch, labels)

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = (features, values, context, first, second) if output_hidden_states else None
        return SequenceClassifierOutput(logits=logits, hidden_states=states)


AutoConfig.register("attention_rnn", AttentionRnnConfig, exist_ok=True)
AutoModelForAudioClassification.register(AttentionRnnConfig, AttentionRnnForAudioClassification, exist_ok=True)
