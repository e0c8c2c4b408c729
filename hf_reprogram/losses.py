"""Losses of the problem types. Each honours Trainer's `num_items_in_batch`, so that accumulation changes nothing.

Each is a sum over counted elements divided by `num_items` (by their number where it is None): dividing each
micro-batch by the count of the whole accumulated batch makes the gradients of two half batches add up to those of one
whole batch; a plain mean would not. Elements are counted as Trainer counts them: all of `labels` that are not -100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DataError, UsageError


IGNORED = -100
NEVER = -1e30  # log-probability of a symbol where none can be; finite, so that no gradient is NaN
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


def transcription(logits: Tensor, labels: Tensor, num_items: Count = None, weight: Tensor | None = None) -> Tensor:
    """-log p of the texts in nats, summed over rows and divided by the number of their tokens.

    transformers' own CTC losses are sums over the batch, or means of rows each divided by its length.

    Args:
        logits: log-probabilities: of blank and symbols in each frame, (batch, frames, 1 + symbols), over whose
            alignments p is summed (CTC, 10.1145/1143844.1143891); a frame that is none has its blank at 0 and the
            rest at `NEVER`, which leaves p as it is. Or of the text's own tokens, (batch, tokens), p their product.
        labels: (batch, tokens) int64 ids of the texts, filled up with -100; of symbols from 1.
        num_items: tokens over the whole optimiser step.
        weight: None; texts have none.

    Returns:
        A scalar, float32.

    Raises:
        DataError: a text with more symbols than its row has frames: its loss would be infinite. There is no option to
            count it as zero, which would hide the row.
    """
    _check_texts(logits, labels)
    there = labels != IGNORED
    counted = there.sum().clamp(min=1) if num_items is None else num_items
    if logits.ndim == 2:
        return -logits.float().where(there, 0.0).sum() / counted
    frames = labels.new_full((len(labels),), logits.shape[1])
    each = F.ctc_loss(
        logits.float().transpose(0, 1),
        labels.clamp(min=0),
        frames,
        there.sum(1),
        reduction="none",
        zero_infinity=False,
    )  # (batch,)
    if bool((each > -NEVER / 10).any()):
        raise _too_long(int((each > -NEVER / 10).nonzero()[0]), logits, labels)
    return each.sum() / counted


def _too_long(row: int, logits: Tensor, labels: Tensor) -> DataError:
    ids, frames = labels[row][labels[row] != IGNORED], int((logits[row, :, 1:] > NEVER).any(1).sum())
    doubled = int((ids[1:] == ids[:-1]).sum())
    what = f"a text of {len(ids)} symbols, {doubled} of them doubled, in {frames} frames of sound"
    expected = "no more symbols than frames, and a frame between equal ones"
    return DataError(f"row {row} of the batch", what, expected, "drop such rows, or stretch the sound")


def _check_texts(logits: Tensor, labels: Tensor) -> None:
    """Raise for targets that are no texts of what is scored."""
    texts = labels.dtype == torch.int64 and labels.ndim == 2 and len(labels) == len(logits)
    if not texts or (logits.ndim == 2 and labels.shape != logits.shape):
        name = str(labels.dtype).removeprefix("torch.")
        what = f"{tuple(labels.shape)} of {name}"
        raise UsageError("labels", what, f"int64 ids of {len(logits)} texts, filled up with -100")
    if logits.ndim == 3 and labels.numel() and (int(labels.max()) >= logits.shape[2] or bool((labels == 0).any())):
        raise UsageError("labels", f"{int(labels.max())} is no symbol", f"1 to {logits.shape[2] - 1}")


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
    "transcription": transcription,
}
