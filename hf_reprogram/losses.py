"""Losses of the problem types. Each honours Trainer's `num_items_in_batch`, so that accumulation changes nothing.

Each is a sum over counted elements divided by `num_items` (by their number where it is None): dividing each
micro-batch by the count of the whole accumulated batch makes the gradients of two half batches add up to those of one
whole batch; a plain mean would not. Elements are counted as Trainer counts them: all of `labels` that are not -100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError


IGNORED = -100
Count = Tensor | int | None


def single_label(logits: Tensor, labels: Tensor, num_items: Count = None, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats.

    Args:
        logits: (batch, classes); a class that a row does not have is -inf.
        labels: (batch,) int64, -100 is not counted.
        num_items: rows counted over the whole optimiser step.
        weight: (classes,) factor of each row's loss by its label. The sum is divided by the number of rows, not by
            the sum of weights as torch does it: that would depend on who shares the batch.

    Returns:
        A scalar, float32.
    """
    _check_ids(logits, labels)
    counted = (labels != IGNORED).sum() if num_items is None else num_items
    total = F.cross_entropy(logits.float(), labels, weight, ignore_index=IGNORED, reduction="sum")
    return total / counted


def multi_label(logits: Tensor, labels: Tensor, num_items: Count = None, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each label for itself, in nats.

    Args:
        logits: (batch, labels).
        labels: (batch, labels) float, 0 to 1.
        num_items: elements (rows times labels) over the whole optimiser step.
        weight: (labels,) factor of each label's losses.

    Returns:
        A scalar, float32.
    """
    _check_values(logits, labels)
    total = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), weight, reduction="sum")
    return total / (labels.numel() if num_items is None else num_items)


def regression(logits: Tensor, labels: Tensor, num_items: Count = None, weight: Tensor | None = None) -> Tensor:
    """Squared error.

    Args:
        logits: (batch, outputs).
        labels: (batch, outputs) float.
        num_items: elements (rows times outputs) over the whole optimiser step.
        weight: (outputs,) factor of each output's errors.

    Returns:
        A scalar, float32, in squared units of the labels.
    """
    _check_values(logits, labels)
    error = (logits.float() - labels.float()).square()
    total = (error if weight is None else error * weight).sum()
    return total / (labels.numel() if num_items is None else num_items)


def _check_ids(logits: Tensor, labels: Tensor) -> None:
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


def _check_values(logits: Tensor, labels: Tensor) -> None:
    """Raise for targets that are no numbers for each of the outputs."""
    if labels.shape != logits.shape:
        raise UsageError(
            "labels", f"of shape {tuple(labels.shape)}", f"{tuple(logits.shape)}: a number for each output"
        )
    if not labels.is_floating_point():
        raise UsageError("labels", f"of type {str(labels.dtype).removeprefix('torch.')}", "floating point numbers")
    if not bool(labels.isfinite().all()):
        raise UsageError("labels", "NaN or infinity among them", "finite numbers", "drop such rows")


LOSSES = {
    "single_label_classification": single_label,
    "multi_label_classification": multi_label,
    "regression": regression,
}
