"""Losses of the problem types. Each honours Trainer's `num_items_in_batch`, so that accumulation changes nothing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
    if num_items is None:
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / num_items


LOSSES = {"single_label_classification": single_label}
