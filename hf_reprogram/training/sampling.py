"""The order in which training rows come: batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthBuckets(Sampler):
    """Random rows, laid so that each batch holds rows of like length (a third less padding: P§C).

    The order of an epoch depends on seed and epoch alone. transformers' own sampler draws it from the global random
    state: a run resumed in the midst of an epoch would see other rows than an uninterrupted one, and ranks whose
    random states have parted would each see an order of their own.

    Args:
        lengths: of every row.
        batch_size: rows of one optimiser step, over all ranks.
        seed: of the order.
        epoch: tells which epoch it is. Asked, not told: accelerate's `set_epoch` does not reach a sampler whose
            batches are both skipped (a resumed run) and dealt out to ranks.

    Example:

        >>> lengths = [9, 1] * 8
        >>> order = list(LengthBuckets(lengths, batch_size=2, seed=0, epoch=lambda: 0))
        >>> sorted(order) == list(range(16)), lengths[order[0]], lengths[order[1]]
        (True, 9, 9)
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
