"""What programs inside the encoder share: hooks from functions of hidden states, layers, frames put in and taken out.

Functions in hooks hold copies of parameters, made in the program's forward: never a leaf nor a view of one, which the
encoders' in-place masking refuses (S7), and still there when sharding takes the parameters back (N2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError
from ..registry import option
from .base import Program, ProgramOptions


Hook = tuple[str, Callable[..., Any]]
Change = Callable[[Tensor], Tensor]  # (batch, positions, width) -> the same
DEVIATION = 0.02  # of keys and values at the start
NOISE = 0.1  # its amplitude, where frames begin as noise


@dataclass
class LayerOptions(ProgramOptions):
    """Options of programs that act before layers."""

    layers: list[int] | None = option(
        None, "Before which of the encoder's layers, from 0, or from the end (-1); None is all that are read."
    )

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        self.layers = layers_read(self.layers, backbone, reading, f"{type(self).__name__}.layers")


def layers_read(layers: list[int] | None, backbone: Any, reading: Reading, where: str) -> list[int]:
    """Numbers of layers, checked: a layer behind the one that is read would train nothing.

    Raises:
        ConfigError: no such layer, or one that nothing is read of.
    """
    count, name = len(backbone.layers[1]), type(backbone.base).__name__
    read = count if reading.layer is None else max(backbone.layer_index(reading.layer), 1)
    if layers is None:
        return list(range(read))
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ConfigError(where, f"{layers} of a {name} with {count} layers", f"numbers from {-count} to {count - 1}")
    found = sorted({layer % count for layer in layers})
    if found[-1] >= read:
        what = f"{found[-1]}, and the mapping reads layer {reading.layer} of a {name}: nothing would train there"
        raise ConfigError(where, what, f"numbers below {read}")
    return found


class LatentProgram(Program):
    """A program that acts inside the encoder. A subclass gives `hooks`."""

    accepts = gives = "latent"

    def hooks(self, backbone: Any) -> tuple[Hook, ...]:
        """(site, function) for one call."""
        raise NotImplementedError

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        return replace(batch, hooks=batch.hooks + self.hooks(backbone))


def before(change: Change) -> Callable[..., Any]:
    """A hook that changes the hidden states that a layer takes."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (change(args[0]), *args[1:]), kwargs

    return hook


def after(change: Change) -> Callable[..., Any]:
    """A hook that changes the hidden states that a module gives: alone, first of several, or by name."""

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return type(output)(**{**output, "last_hidden_state": change(output.last_hidden_state)})

    return hook


def refuse_layer_readings(options: ProgramOptions, backbone: Any, reading: Reading) -> None:
    """Frames that are put in stand in every layer's states; only at the end they are taken out again (S8)."""
    summed = getattr(backbone.base.config, "use_weighted_layer_sum", False) and reading.kind in ("classes", "base")
    if reading.layer is not None or summed:
        name = type(backbone.base).__name__
        what = f"{options.type!r} puts frames into a {name}, and " + (
            "its head sums over all layers" if summed else f"the mapping reads layer {reading.layer}"
        )
        raise ConfigError("ReprogramConfig.program", what, "a reading of the last layer", "latent_overwrite")


def inserted(prompt: Tensor, backbone: Any) -> tuple[Hook, ...]:
    """Hooks that put frames before the others at the encoder, and take them out behind it.

    Args:
        prompt: (frames, width).
        backbone: of the base.
    """
    if entrance(backbone) == "encoder":
        return ("encoder", _at_encoder(prompt)), ("encoder:after", after(lambda h: h[:, len(prompt) :]))
    layers = len(backbone.layers[1])  # before the first, and out again behind the last
    longer = [(f"layer:{i}", _at_layer(len(prompt), prompt if i == 0 else None)) for i in range(layers)]
    return (*longer, (f"layer:{layers - 1}:after", after(lambda h: h[:, len(prompt) :])))


def entrance(backbone: Any) -> str:
    """Where frames are put in: at the encoder of wav2vec2 and its kin; others make their hidden states inside it."""
    return "encoder" if _parameters(backbone.site("encoder"))[0] == "hidden_states" else "layer:0"


@torch.no_grad()
def start_as_noise(prompts: Mapping[str, Tensor], backbone: Any, generator: torch.Generator) -> None:
    """Start frames as what the base makes of white noise: frames that it knows how to hear, and that say nothing.

    Numbers at random are the frames of no sound, whatever their size: eight of them before a clip took half of what
    Moonshine could tell apart, and no rate brought it back; eight of noise took next to nothing.

    Args:
        prompts: (length, width), by the site where they act.
        backbone: of the base.
        generator: draws the noise, a second of it at most.
    """
    seen: dict[str, Tensor] = {}

    def noted(site: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            seen[site] = (args[0] if args else kwargs["hidden_states"])[0, backbone.lead :]  # (positions, width)

        return hook

    samples = min(backbone.facts.canvas, backbone.facts.rate)
    wave = NOISE * torch.randn(1, samples, generator=generator)
    hooks = tuple((site, noted(site)) for site in prompts)
    backbone.run(Batch(input_values=wave.to(backbone.device), hooks=hooks), Reading("state", pool="first"))
    for site, prompt in prompts.items():
        prompt.copy_(seen[site][torch.arange(len(prompt), device=seen[site].device) % len(seen[site])])


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def joined(prompt: Tensor, hidden: Tensor) -> Tensor:
    """[prompt; hidden], (batch, frames + positions, width), of the hidden states' type."""
    return torch.cat([prompt.to(hidden.dtype).expand(len(hidden), -1, -1), hidden], 1)


def _at_encoder(prompt: Tensor) -> Callable[..., Any]:
    """The mask of T frames is made before the encoder is called: it grows too (S8)."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = dict(zip(_parameters(module), args, strict=False)) | kwargs
        given["hidden_states"] = joined(prompt, given["hidden_states"])
        mask = given.get("attention_mask")
        if mask is not None:  # (batch, positions)
            given["attention_mask"] = torch.cat([mask.new_ones(len(mask), len(prompt)), mask], 1)
        return (), given

    return hook


def _at_layer(count: int, prompt: Tensor | None) -> Callable[..., Any]:
    """Positions for `count` frames more, in what a layer is told about them."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = dict(zip(_parameters(module), args, strict=False)) | kwargs
        hidden = given.pop("hidden_states")
        mask = given.get("attention_mask")
        if mask is not None:  # (batch, 1, positions, positions): true or 0.0 where they see each other
            given["attention_mask"] = F.pad(mask, (count, 0, count, 0), value=mask.dtype == torch.bool)
        if given.get("position_embeddings") is not None:  # cosines and sines: frames put in are not turned
            cosines, sines = given["position_embeddings"]
            given["position_embeddings"] = F.pad(cosines, (0, 0, count, 0), value=1.0), F.pad(sines, (0, 0, count, 0))
        # The states stay positional: a checkpoint would not find them else.
        return (hidden if prompt is None else joined(prompt, hidden),), given

    return hook


def copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies that gradients flow through."""
    return {name: p.clone() for name, p in parameters.items()}
