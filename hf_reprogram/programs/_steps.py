"""Which passes of a program belong to one step of the optimiser: several do, where gradients are accumulated."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


_TAKEN = [0]  # steps of all optimisers of the process


@cache
def _listen() -> None:
    """Count them, by one hook for all programs."""

    def count(*_: object) -> None:
        _TAKEN[0] += 1

    register_optimizer_step_post_hook(count)


class Steps:
    """Tells a program whether a step that began is over: an optimiser has stepped, or the numbers were written to.

    Torch counts the writes into each tensor, but for those of fused optimisers. Any optimiser counts, as those of a
    sharded model hold other tensors than the program: where one steps between the passes of another's accumulation,
    it ends that step too. Where a framework gathers parameters anew for each pass (FSDP) no step lasts longer.

    Example:

        >>> import torch
        >>> steps, weight = Steps(), nn.Parameter(torch.zeros(1))
        >>> steps.begin([weight])
        >>> steps.lasts([weight])
        True
        >>> with torch.no_grad():
        ...     _ = weight.add_(1)
        >>> steps.lasts([weight])
        False
    """

    def __init__(self) -> None:
        self._seen: list[int] | None = None
        _listen()

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """A step begins with this pass."""
        self._seen = _state(parameters)

    def lasts(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether the step that last began is not over."""
        return self._seen == _state(parameters)


def _state(parameters: Iterable[nn.Parameter]) -> list[int]:
    return _TAKEN + [p._version for p in parameters]
