"""Losses of the problem types. Each honours Trainer's `num_items_in_batch`, so that accumulation changes nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError


IGNORED = -100


def single_label(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross-entropy, summed over the counted rows and divided by `num_items` (by their number where it is None).

    Dividing each micro-batch by the count of the whole accumulated batch makes the gradients of two half batches
    add up to those of one whole batch; a plain mean would not.

    Args:
        logits: (batch, classes); a class that a row does not have is -inf.
        labels: (batch,) int64, -100 is not counted.
        num_items: rows counted over the whole optimiser step.

    Returns:
        A scalar in nats, float32.
    """
    _check(logits, labels)
    if num_items is None:
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / num_items


def _check(logits: Tensor, labels: Tensor) -> None:
    """Raise for labels that are none of these classes, in words rather than in torch's."""
    if labels.dtype != torch.int64:
        raise UsageError("labels", f"of type {str(labels.dtype).removeprefix('torch.')}", "int64 ids")
    if labels.shape != logits.shape[:1]:
        raise UsageError("labels", f"{labels.numel()} of them", f"one for each of {len(logits)} rows")
    counted = labels[labels != IGNORED]
    if counted.numel():
        low, high = torch.stack(counted.aminmax()).tolist()
        if low < 0 or high >= logits.shape[1]:
            odd = low if low < 0 else high
            raise UsageError("labels", f"{odd} is outside the labels", f"0 to {logits.shape[1] - 1}")


LOSSES = {"single_label_classification": single_label}
