"""Shares of the rows: every row once or more, as many on each rank."""

from __future__ import annotations

import pytest

from hf_reprogram.data.shares import share, world


def test_without_a_process_group_there_is_one_rank() -> None:
    assert world() == (0, 1)


@pytest.mark.parametrize(("count", "ranks"), [(1, 2), (5, 2), (6, 3), (2, 4)])
def test_shares_are_equally_long_and_interleave(count: int, ranks: int) -> None:
    """A sharded base runs all ranks in step: one row less on a rank would hang the others."""
    shares = [share(range(count), rank, ranks) for rank in range(ranks)]
    assert len({len(s) for s in shares}) == 1
    assert [row for step in zip(*shares, strict=True) for row in step][:count] == list(range(count))
