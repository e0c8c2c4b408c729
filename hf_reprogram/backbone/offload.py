"""Bases whose weights lie on the disk or in another memory until a pass needs them (accelerate's hooks)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """accelerate's hooks on a module that is offloaded."""
    hook = vars(module).get("_hf_hook")
    return () if hook is None else getattr(hook, "hooks", (hook,))


def running_device(module: nn.Module) -> torch.device:
    """Where a module with a weight computes: where its weight lies, or is brought to for the pass."""
    device = module.weight.device
    found = [h.execution_device for h in _hooks(module) if getattr(h, "execution_device", None) is not None]
    return torch.device(found[0]) if device.type == "meta" and found else device


class Weights(Mapping):
    """The tensors of a base by name, tied ones once; those that are offloaded are fetched when they are asked for.

    Args:
        base: a model, offloaded or not.
    """

    def __init__(self, base: nn.Module) -> None:
        seen: dict[int, str] = {}
        tied = getattr(base, "all_tied_weights_keys", None) or {}
        self.base, self.held = base, {}
        for name, tensor in base.state_dict(keep_vars=True).items():
            away = tensor.device.type == "meta"
            if away and name in tied:  # what it is tied to stands under another name
                continue
            key = tensor.data_ptr() if tensor.numel() and not away else id(tensor)
            if seen.setdefault(key, name) == name:
                self.held[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.held[name]
        if tensor.device.type != "meta":
            return tensor
        path, _, own = name.rpartition(".")
        maps = [getattr(hook, "weights_map", None) for hook in _hooks(self.base.get_submodule(path))]
        return next((m[own] for m in maps if m is not None and own in _names(m)), tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """Changes with any in-place edit, because a tensor's version counter rises (one through `.data` has none)."""
        return tuple((t.data_ptr(), t._version) for t in self.held.values())


def _names(weights: Any) -> set[str]:
    """Names in accelerate's map of a module's weights, without the module's own path."""
    prefix = getattr(weights, "prefix", "")
    return {name.removeprefix(prefix) for name in weights}
