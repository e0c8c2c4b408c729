"""One vector of a row's many states: of a position, or moments over the text and over parts of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import Batch
from ..errors import UsageError


def pooled(batch: Batch, pool: str, context: Tensor, parts: int = 1) -> Tensor:
    """One state per row, (batch, dim): of the first or last real position, or the mean over the text, or over each
    of its parts, with its deviation beside it or without."""
    mask = batch.attention_mask
    if pool in ("mean", "statistics"):
        keep = mask * (batch.slot_index < 0) if batch.slot_index is not None else mask
        return torch.cat([_moments(context, part, pool) for part in _in_parts(keep, parts)], -1)
    at = mask.argmax(1) if pool == "first" else (mask * torch.arange(1, mask.shape[1] + 1).to(mask)).argmax(1)
    return context[torch.arange(len(context), device=context.device), at]


def _moments(context: Tensor, keep: Tensor, pool: str) -> Tensor:
    """Mean of states (batch, time, dim) where `keep` (batch, time), and for `statistics` their deviation beside it."""
    keep = keep.to(context.dtype).unsqueeze(-1)  # (batch, time, 1)
    count = keep.sum(1).clamp(min=1)
    mean = (context * keep).sum(1) / count
    if pool == "mean":
        return mean
    spread = ((context - mean.unsqueeze(1)).square() * keep).sum(1) / count
    return torch.cat([mean, (spread + 1e-12).sqrt()], -1)


def _in_parts(keep: Tensor, parts: int) -> list[Tensor]:
    """The positions that count, (batch, time), in parts that follow each other, each row's as even as they can be."""
    if parts == 1:
        return [keep]
    count = keep.sum(1, keepdim=True)
    if int(count.min()) < parts:
        what = f"{parts}, and a row has {int(count.min())} positions"
        raise UsageError("parts", what, "at most as many as the shortest row has", "longer rows, or fewer parts")
    part = (keep.cumsum(1) - 1) * parts // count
    return [keep * (part == i) for i in range(parts)]
