"""Which passes of a program belong to one step of the optimiser: several do, where gradients are accumulated."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class Steps:
    """Tells a program whether its numbers were written to since a step began: by whatever optimiser, or by hand.

    Torch counts the writes into each tensor. Where a framework gathers parameters anew for every pass (FSDP) it counts
    those too, and no step lasts longer than a pass.

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

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """A step begins with this pass."""
        self._seen = [p._version for p in parameters]

    def lasts(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether the step that last began is not over."""
        return self._seen == [p._version for p in parameters]
