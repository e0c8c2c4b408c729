"""Passes of a model over laid out rows: asleep, batch by batch, the longest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import UsageError


@contextmanager
def asleep(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards the model is in the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.backbone.serving():
            yield
    finally:
        model.train(was_training)


def batches(
    model: Any,
    collator: Any,
    made: Sequence[Any],
    batch_size: int = 32,
    progress: bool | None = None,
    labelled: bool = False,
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(indices of rows, columns on the base's device) of laid out rows, longest first: little padding (P§C); with
    their labels where `labelled`."""
    at_least_one("batch_size", batch_size)
    device = model.backbone.device
    order = sorted(range(len(made)), key=lambda i: -len(made[i]))
    show = len(made) >= 200 if progress is None else progress
    for start in tqdm(range(0, len(order), batch_size), disable=not show, desc="rows", unit="batch", leave=False):
        index = order[start : start + batch_size]
        columns = collator.stack([made[i] for i in index])
        if not labelled:
            columns.pop("labels", None)
        yield index, {k: v.to(device) if isinstance(v, Tensor) else v for k, v in columns.items()}


def at_least_one(where: str, value: Any) -> None:
    """Raise where a count of something is none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(where, f"{value!r}", "a whole number from 1")


def above_zero(where: str, value: Any, expected: str = "a number above 0") -> None:
    """Raise where a rate or the like is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(where, f"{value!r}", expected)


def check_enabled(model: Any) -> None:
    """Raise where the program is disabled."""
    if model.reprogrammed.disabled:
        raise UsageError(
            "disable_adapter",
            "target labels of a disabled program",
            "an enabled one, or the base's own output by model(**columns)",
            "leave the `with` block",
        )
