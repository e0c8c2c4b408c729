"""A rank's share of the rows, and what all ranks made of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def world() -> tuple[int, int]:
    """(rank, number of ranks) of the process group; (0, 1) where there is none."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share(rows: Sequence[Any], rank: int, ranks: int) -> list[Any]:
    """Rows rank, rank + ranks, ...: as many on each rank, so that a sharded base runs in step; the first rows fill up.

    Example:

        >>> [share("abcde", rank, 2) for rank in range(2)]
        [['a', 'c', 'e'], ['b', 'd', 'a']]
    """
    return [rows[(rank + i * ranks) % len(rows)] for i in range(-(-len(rows) // ranks))]


def of_all_ranks(own: Tensor, count: int) -> Tensor:
    """What all ranks made of their shares (rows, ...), in the order of the `count` rows; equal on every rank."""
    parts: list[Any] = [None] * world()[1]
    distributed.all_gather_object(parts, own.cpu())
    return torch.stack(parts, 1).flatten(0, 1)[:count]
