"""CREPE, a pitch tracker of convolutions on raw audio: 1,024 samples in, 360 pitches out.

Importing this file registers it: `AutoModelForAudioClassification.from_pretrained(folder)` then finds it.

Layers (Kim et al., arXiv 1802.06182): a frame standardised to mean 0 and deviation 1 → six times (convolution over
time, ReLU, batch norm, maximum of two neighbours) → one linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from ..errors import DataError
from .parts import SourceModel


CENTS_PER_BIN, LOWEST_CENTS = 20.0, 1997.3794084376191  # above 10 Hz


def pitch(label: int) -> float:
    """The frequency that a label stands for, in Hz; neighbours lie 20 cents apart.

    Example:

        >>> round(pitch(0), 2), round(pitch(228), 2), round(pitch(359), 2)
        (31.7, 441.54, 2005.5)
    """
    return 10 * 2 ** ((CENTS_PER_BIN * label + LOWEST_CENTS) / 1200)


class CrepeConfig(PreTrainedConfig):
    """Sizes of CREPE; the defaults are those of "tiny".

    Args:
        sampling_rate: of the wave, in Hz.
        frame_samples: length of a frame, a multiple of `stride` × 2 ** (number of blocks).
        channels: of each block; CREPE "full" has (1024, 128, 128, 128, 256, 512).
        first_kernel, stride: of the first convolution.
        kernel: of the others.
        batch_norm_eps: of the batch norms, which never update their statistics.

    Labels are named after their pitch, and a frame may have several (`problem_type`).

    Example:

        >>> config = CrepeConfig()
        >>> config.num_labels, config.id2label[228], config.problem_type
        (360, '441.54 Hz', 'multi_label_classification')
    """

    model_type = "crepe"

    sampling_rate: int = 16000
    frame_samples: int = 1024
    channels: tuple[int, ...] | list[int] = (128, 16, 16, 16, 32, 64)
    first_kernel: int = 512
    stride: int = 4
    kernel: int = 64
    batch_norm_eps: float = 0.0010000000474974513  # 1e-3 in float32, as the weights were trained with
    problem_type: str | None = "multi_label_classification"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.id2label is None:
            self.id2label = {i: f"{pitch(i):.2f} Hz" for i in range(kwargs.pop("num_labels", None) or 360)}
            self.label2id = {name: i for i, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    @property
    def input_samples(self) -> int:
        """Samples of what it hears: one frame."""
        return self.frame_samples

    @property
    def hidden_size(self) -> int:
        """Channels of the last block."""
        return self.channels[-1]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Widths of `hidden_states`, which differ."""
        return tuple(self.channels)


class LongConv(nn.Conv1d):
    """A convolution whose kernel is nearly as long as its input, several times faster on a CPU than torch's own.

    With a stride it is one matrix product over the windows. Without, windows would be copies by the hundred megabytes,
    and the product of spectra is the cheaper way.
    """

    def forward(self, values: Tensor) -> Tensor:
        """(batch, in, time) → (batch, out, (time - kernel) / stride + 1)."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        if stride > 1:
            windows = values.unfold(-1, kernel, stride).transpose(1, 2).flatten(2)  # (batch, time', in × kernel)
            return functional.linear(windows, self.weight.flatten(1), self.bias).transpose(1, 2)
        size = values.shape[-1] + values.shape[-1] % 2  # a real FFT comes back at even sizes only
        # No FFT in half precision. The kernel lies reversed in a convolution by spectra, hence the conjugate.
        spectrum, filters = torch.fft.rfft(values.float(), size), torch.fft.rfft(self.weight.float(), size).conj()
        product = torch.einsum("bif,oif->bof", spectrum, filters)  # (batch, out, size // 2 + 1)
        summed = torch.fft.irfft(product, size)[..., : values.shape[-1] - kernel + 1]  # (batch, out, time')
        return summed.to(values.dtype) + self.bias[:, None]


class _Block(nn.Module):
    """Convolution at full length, ReLU, batch norm (after the ReLU: unusual, and so trained), maximum of two."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        surplus = kernel - stride
        self.padding = (surplus // 2, surplus - surplus // 2)
        self.conv = LongConv(inputs, outputs, kernel, stride)
        self.norm = nn.BatchNorm1d(outputs, eps=eps)

    def forward(self, values: Tensor) -> Tensor:
        values = self.conv(functional.pad(values, self.padding))  # (batch, outputs, time / stride)
        return functional.max_pool1d(self.norm(functional.relu(values)), 2)


class CrepeForAudioClassification(SourceModel):
    """CREPE with its 360 outputs.

    `forward(input_values, output_hidden_states=False)` takes frames (batch, 1024) at 16 kHz. **Logits are
    multi-label**: the probability of a pitch is the sigmoid of its logit, and does not depend on the others.
    With `output_hidden_states`, `hidden_states` are the outputs of the six blocks, (batch, time, channels): tiny gives
    (128, 128), (64, 16), (32, 16), (16, 16), (8, 32) and (4, 64); the last one flattened is the linear layer's input.

    Example:

        >>> config = CrepeConfig(frame_samples=64, channels=(4, 6), first_kernel=16, kernel=8, num_labels=5)
        >>> model = CrepeForAudioClassification(config).eval()
        >>> output = model(torch.randn(2, 64), output_hidden_states=True)
        >>> [tuple(state.shape) for state in output.hidden_states], tuple(output.logits.shape)
        ([(2, 8, 4), (2, 4, 6)], (2, 5))
    """

    config_class = CrepeConfig

    def __init__(self, config: CrepeConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList()
        inputs, kernel, stride = 1, config.first_kernel, config.stride
        for outputs in config.channels:
            self.blocks.append(_Block(inputs, outputs, kernel, stride, config.batch_norm_eps))
            inputs, kernel, stride = outputs, config.kernel, 1
        steps = config.frame_samples // (config.stride * 2 ** len(config.channels))
        self.classifier = nn.Linear(steps * inputs, config.num_labels)
        self.post_init()

    def train(self, mode: bool = True) -> CrepeForAudioClassification:
        """Train or eval mode, the batch norms apart: what they measured on music stays."""
        super().train(mode)
        for block in self.blocks:
            block.norm.eval()
        return self

    @can_return_tuple
    def forward(self, input_values: Tensor, output_hidden_states: bool | None = None) -> SequenceClassifierOutput:
        """Logits of the pitches, before the sigmoid; see the class for shapes.

        Raises:
            DataError: frames of another length.
        """
        frame = self.config.frame_samples
        if input_values.ndim != 2 or input_values.shape[1] != frame:
            raise DataError(
                "input_values", f"shape {tuple(input_values.shape)}", f"(batch, {frame}): CREPE hears one frame"
            )
        deviation, mean = torch.std_mean(input_values.float(), dim=1, keepdim=True)
        values = (input_values - mean) / deviation.clamp_min(1e-10)  # (batch, frame); a silent frame stays silent
        values = values.to(self.classifier.bias.dtype).unsqueeze(1)  # (batch, 1, frame)

        states = []
        for block in self.blocks:
            values = block(values)  # (batch, channels, time)
            states.append(values.mT)
        logits = self.classifier(values.mT.flatten(1))  # (batch, labels); time outside, channels inside

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return SequenceClassifierOutput(logits=logits, hidden_states=tuple(states) if output_hidden_states else None)


AutoConfig.register("crepe", CrepeConfig, exist_ok=True)
AutoModelForAudioClassification.register(CrepeConfig, CrepeForAudioClassification, exist_ok=True)
