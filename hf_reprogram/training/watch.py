"""Whether a program learns at all: how strongly it is pulled, and how far it has come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Watch:
    """The gradient of a model's active program, and its way from where it started (U§1).

    Args:
        model: whose program's numbers are taken down as they are now.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.started = [p.detach().clone() for p in self._parameters()]
        self.pull: Tensor | float | None = None

    def _parameters(self) -> list[Tensor]:
        # Asked for anew each time: FSDP puts sharded parameters in the place of those that were there.
        return [p for program in self.model.active_programs() for p in program.parameters() if p.requires_grad]

    def feel(self, total: Any) -> None:
        """Take down the norm of the program's gradient.

        Args:
            total: norm of the gradient of everything that trains, before it was clipped. The program's own is told
                by its share, which clipping (and fp16's scaling) has left as it was.
        """
        everything = [p.grad for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        own = [p.grad for p in self._parameters() if p.grad is not None]
        if own:
            whole = torch.nn.utils.get_total_norm(everything).clamp(min=1e-30)
            self.pull = torch.nn.utils.get_total_norm(own) / whole * total

    def numbers(self) -> dict[str, float]:
        """`program_grad_norm` of the last step; `program_moved`, root mean square, in units of its parameters."""
        now = [_whole(p.detach()) for p in self._parameters()]
        if not now or len(now) != len(self.started):
            return {}
        gaps = [(a - b.to(a)).square().sum() for a, b in zip(now, self.started, strict=True)]
        moved = (torch.stack(gaps).sum() / sum(p.numel() for p in now)).sqrt()
        pull = {} if self.pull is None else {"program_grad_norm": float(_whole(self.pull))}
        return pull | {"program_moved": float(moved)}


def _whole(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
