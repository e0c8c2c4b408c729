"""What answers are worth: probabilities from logits, and the metrics of each problem type (scikit-learn's)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor

from .errors import DataError


HALF = 0.5  # a row has a label whose probability is above it, where it may have several


def probabilities(logits: Tensor, problem_type: str) -> Tensor:
    """Scores as people read them, (rows, outputs): softmax, or a probability per label, or the values themselves.

    Example:

        >>> import torch
        >>> probabilities(torch.tensor([[0.0, 0.0]]), "multi_label_classification").tolist()
        [[0.5, 0.5]]
    """
    if problem_type == "single_label_classification":
        return logits.softmax(-1)
    return logits.sigmoid() if problem_type == "multi_label_classification" else logits


def metrics(logits: Any, labels: Any, problem_type: str) -> dict[str, float]:
    """Metrics of logits against labels.

    Args:
        logits: (rows, outputs) numpy array.
        labels: (rows,) ids, or (rows, outputs) numbers.
        problem_type: a key of `losses.LOSSES`.

    Returns:
        Single label: `accuracy`, `macro_f1`, `majority` (share of the commonest label). Multi-label: `micro_f1`,
        `macro_f1`, `accuracy` (all labels of a row right), at a probability of one half. Regression: `mse`, `mae`,
        `r2` and `pearson` (mean over the outputs; left out where they do not vary). Texts: `cer`, where the logits are
        those of frames (CTC); log-probabilities of tokens say nothing more than the loss.

    Example:

        >>> metrics(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), "single_label_classification")
        {'accuracy': 0.5, 'macro_f1': 0.3333333333333333, 'majority': 1.0}
    """
    from sklearn.metrics import accuracy_score, f1_score

    logits, labels = np.asarray(logits), np.asarray(labels)
    if problem_type == "regression":
        return _regression(logits, labels)
    if problem_type == "transcription":
        meant = [row[row >= 0].tolist() for row in labels]
        said = [collapsed(row.argmax(-1).tolist()) for row in logits] if logits.ndim == 3 else None
        return {} if said is None else {"cer": error_rate(said, meant)}
    if problem_type == "multi_label_classification":
        guess, truth = logits > 0, labels > 0.5
        return {
            "micro_f1": float(f1_score(truth, guess, average="micro", zero_division=0)),
            "macro_f1": float(f1_score(truth, guess, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(truth, guess)),
        }
    guess = logits.argmax(-1)
    return {
        "accuracy": float(accuracy_score(labels, guess)),
        "macro_f1": float(f1_score(labels, guess, average="macro", zero_division=0)),
        "majority": float(np.bincount(labels).max() / len(labels)),
    }


def calibration(chances: Any, labels: Any, bins: int = 15) -> tuple[float, np.ndarray]:
    """How far the probability of what is said is from how often it is right (expected calibration error, 1706.04599).

    Args:
        chances: (rows, labels) probabilities.
        labels: (rows,) ids.
        bins: of equal width, by the largest probability of a row.

    Returns:
        Mean over rows of |confidence - accuracy| of their bin; and (bins, 3) rows, mean confidence and accuracy of
        each bin, NaN where it is empty.

    Example:

        >>> error, table = calibration(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]), bins=2)
        >>> round(error, 3), table[1].round(3).tolist()
        (0.4, [2.0, 0.9, 0.5])
    """
    chances, labels = np.asarray(chances, dtype=np.float64), np.asarray(labels)
    sure, right = chances.max(1), chances.argmax(1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, sure, bins) / count
        accuracy = np.bincount(place, right, bins) / count
    error = float(np.nansum(count * np.abs(confidence - accuracy)) / len(labels))
    return error, np.stack([count, confidence, accuracy], 1)


def _regression(values: Any, labels: Any) -> dict[str, float]:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    found = {"mse": float(mean_squared_error(labels, values)), "mae": float(mean_absolute_error(labels, values))}
    if len(labels) > 1 and (labels.std(0) > 0).all():
        found["r2"] = float(r2_score(labels, values))
        with warnings.catch_warnings():  # numpy's, where a constant guess correlates with nothing
            warnings.simplefilter("ignore", RuntimeWarning)
            each = [np.corrcoef(values[:, i], labels[:, i])[0, 1] for i in range(labels.shape[1])]
        found["pearson"] = float(np.nan_to_num(each).mean())
    return found


def collapsed(path: Sequence[int], blank: int = 0) -> list[int]:
    """The symbols of a path through the frames: of equal neighbours one, blanks dropped.

    Example:

        >>> collapsed([0, 5, 5, 0, 5, 3, 3])
        [5, 5, 3]
    """
    return [symbol for symbol, _ in groupby(path) if symbol != blank]


def edit_distance(said: Sequence[Any], meant: Sequence[Any]) -> int:
    """The fewest insertions, deletions and replacements that make one of the other.

    Example:

        >>> edit_distance("kitten", "sitting")
        3
    """
    row = list(range(len(meant) + 1))  # from nothing to each beginning of what was meant
    for i, given in enumerate(said, 1):
        row, above = [i], row
        for j, wanted in enumerate(meant, 1):
            row.append(min(row[j - 1] + 1, above[j] + 1, above[j - 1] + (given != wanted)))
    return row[-1]


def error_rate(said: Sequence[Sequence[Any]], meant: Sequence[Sequence[Any]]) -> float:
    """Edits over the length of what was meant, both summed over all rows; above 1 where too much is said.

    Example:

        >>> error_rate(["no", "yes"], ["on", "yes"])
        0.4
    """
    edits = sum(edit_distance(a, b) for a, b in zip(said, meant, strict=True))
    return edits / max(sum(map(len, meant)), 1)


def diversity(samples: Sequence[Sequence[Any]], itself: bool = False) -> float:
    """How different several answers to one question are: 1 - the mean share of equal symbols over all pairs of them.

    Args:
        samples: answers of one length, such as the `text` of what `model.sample` draws for a row with masks; where
            symbols are longer than a character, lists of them.
        itself: count the pair of each answer with itself too, as the code of ReprogBERT does (2210.07144), whose
            number is the hundredfold: n answers that agree nowhere then have 1 - 1 / n.

    Example:

        >>> diversity(["AC", "AC", "AG"]), diversity(["AC", "GT"], itself=True)
        (0.33333333333333337, 0.5)

    Raises:
        DataError: answers of different lengths, of which no place can be compared.
    """
    odd = next((i for i, each in enumerate(samples) if len(each) != len(samples[0])), None)
    if odd is not None:
        what = f"{len(samples[odd])} symbols, and samples[0] has {len(samples[0])}"
        fix = "leave out those that ended sooner, or cut all to one length"
        raise DataError(f"samples[{odd}]", what, "answers of one length", fix)
    pairs = [(a, b) for i, a in enumerate(samples) for j, b in enumerate(samples) if itself or i != j]
    equal = [sum(x == y for x, y in zip(a, b, strict=True)) / len(a) if len(a) else 1.0 for a, b in pairs]
    return 1 - sum(equal) / len(equal) if equal else 0.0


def text_errors(said: Sequence[str], meant: Sequence[str]) -> dict[str, float]:
    """Share of wrong characters (`cer`) and of wrong words (`wer`), spelled as they are: nothing is made equal.

    Example:

        >>> text_errors(["turn it of"], ["turn it off"])
        {'cer': 0.09090909090909091, 'wer': 0.3333333333333333}
    """
    words = [[text.split() for text in texts] for texts in (said, meant)]
    return {"cer": error_rate(said, meant), "wer": error_rate(*words)}


# What a best checkpoint is chosen by, and whether more of it is better.
BEST = {
    "single_label_classification": ("accuracy", True),
    "multi_label_classification": ("micro_f1", True),
    "regression": ("mse", False),
    "transcription": ("loss", False),
}
