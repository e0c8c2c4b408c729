"""What programs of sound share: bare layers from named tensors, and how their numbers start.

Layers are functions of tensors, not modules: a program inside the base hands on copies of its parameters, which stay
what they are when sharding takes the parameters back (N2), and nothing draws from the global generator (N29).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def uniform(parameter: nn.Parameter, bound: float, generator: torch.Generator) -> None:
    """Start a parameter evenly between -bound and bound, whatever device it lies on."""
    parameter.data.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def normal(parameter: nn.Parameter, deviation: float, generator: torch.Generator) -> None:
    """Start a parameter with normal numbers of mean 0."""
    parameter.data.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))


def as_torch(kernel: nn.Parameter, bias: nn.Parameter, generator: torch.Generator) -> None:
    """Start a layer as torch's own do: evenly within one over the root of its inputs."""
    bound = 1 / math.sqrt(math.prod(kernel.shape[1:]))
    uniform(kernel, bound, generator)
    uniform(bias, bound, generator)


def convolutions(channels: Sequence[int], kernel: int) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Kernels (out, in, kernel) and biases (out,) of convolutions one after another, all zero.

    Args:
        channels: that come in, that each layer hands on, and that go out.
    """
    kernels = [torch.zeros(out, into, kernel) for into, out in pairwise(channels)]
    return nn.ParameterList(kernels), nn.ParameterList(torch.zeros(len(kernel)) for kernel in kernels)


def start_but_last(kernels: nn.ParameterList, biases: nn.ParameterList, generator: torch.Generator) -> None:
    """Start all layers as torch does but the last, which stays zero: the whole has no effect yet."""
    for kernel, bias in list(zip(kernels, biases, strict=True))[:-1]:
        as_torch(kernel, bias, generator)


class ConvStack(nn.Module):
    """Four convolutions over time, each of three frames; a layer norm and ReLU after the first three.

    The network of 2211.01317, whose batch norm is a layer norm here: a program must not depend on its batch mates, and
    has as many numbers so.

    Args:
        inputs: channels that come in.
        channels: of every convolution.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        widths = [inputs, channels, channels, channels]
        self.kernels = nn.ParameterList([torch.zeros(channels, width, 3) for width in widths])
        self.biases = nn.ParameterList([torch.zeros(channels) for _ in widths])
        self.gains = nn.ParameterList([torch.ones(channels) for _ in widths[1:]])
        self.offsets = nn.ParameterList([torch.zeros(channels) for _ in widths[1:]])

    def start(self, generator: torch.Generator) -> None:
        """Numbers as torch starts them."""
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            as_torch(kernel, bias, generator)
        for gain, offset in zip(self.gains, self.offsets, strict=True):
            gain.data.fill_(1.0)
            offset.data.zero_()

    def copies(self) -> list[tuple[Tensor, ...]]:
        """What `run` needs, as copies that gradients flow through."""
        norms = [(g.clone(), o.clone()) for g, o in zip(self.gains, self.offsets, strict=True)]
        convs = [(k.clone(), b.clone()) for k, b in zip(self.kernels, self.biases, strict=True)]
        return [(*conv, *norm) for conv, norm in zip(convs, [*norms, ()], strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.copies())

    @staticmethod
    def run(x: Tensor, layers: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """(batch, inputs, time) -> (batch, channels, time)"""
        for kernel, bias, *norm in layers:
            x = F.conv1d(x, kernel, bias, padding=1)
            if norm:
                x = F.layer_norm(x.transpose(1, 2), bias.shape, *norm).transpose(1, 2).relu()
        return x
