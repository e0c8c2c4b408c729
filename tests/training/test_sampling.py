"""Rows by length: in an order that seed and epoch alone decide."""

from __future__ import annotations

import torch

from hf_reprogram.training.sampling import LengthBuckets


LENGTHS = [1 + i % 8 for i in range(32)]


def order(seed: int = 0, epoch: int = 0) -> list[int]:
    return list(LengthBuckets(LENGTHS, 4, seed, epoch=lambda: epoch))


def test_every_row_comes_once() -> None:
    assert sorted(order()) == list(range(32))


def test_seed_and_epoch_decide_and_the_global_random_state_does_not() -> None:
    torch.manual_seed(1)
    first = order()
    torch.manual_seed(2)
    assert order() == first
    assert order(epoch=1) != first and order(seed=5) != first


def test_a_batch_holds_rows_of_like_length() -> None:
    batches = [order()[i : i + 4] for i in range(0, 32, 4)]
    spread = [max(LENGTHS[i] for i in batch) - min(LENGTHS[i] for i in batch) for batch in batches]
    assert sum(spread) / len(spread) < 4  # of 7; a random batch of four spreads 4.9


def test_the_epoch_is_asked_for_when_the_rows_are() -> None:
    now = [0]
    sampler = LengthBuckets(LENGTHS, 4, 0, epoch=lambda: now[0])
    first = list(sampler)
    now[0] = 1
    assert list(sampler) == order(epoch=1) != first
