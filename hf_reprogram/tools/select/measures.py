"""What one reading of one frozen model is worth for labelled rows, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ...mappings._scores import likeliest
from ...mappings.linear import left_out, penalties_of
from ..transferability import gbc, h_score, leep, logme, nce, standardised, transrate


COLUMNS = 1000  # of a vocabulary: the likeliest on these rows
WIDTH = 64  # dimensions that `gbc` sees
STILL = 1e-9  # of the mean spread of all outputs: an output that spreads less never moves
RESAMPLES = 1000


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: the head of its column, and what it says."""

    title: str
    about: str


# In the order of the table. `accuracy` and its interval stand before them.
MEASURES = {
    "leep": Measure("LEEP", "mean log-likelihood of the labels through the base's own classes (2002.12462)"),
    "nce": Measure("NCE", "minus the entropy of the label, given the base's first class (1908.08142)"),
    "logme": Measure("LogME", "log evidence per row of a Bayesian linear map, features standardised (2102.11005)"),
    "h_score": Measure("H", "spread between labels over all spread, covariance shrunk (NeurIPS 2021)"),
    "transrate": Measure("TransRate", "coding rate of all rows less that within labels, standardised (ICML 2022)"),
    "gbc": Measure("GBC", f"minus the overlap of the labels' Gaussians in {WIDTH} dimensions (2111.12780)"),
    "agreement": Measure("grad", "length of the mean gradient over the mean length, at a soft prompt (2108.11673)"),
    "tangent": Measure("NTK", "how far the labels lie along the program's tangent kernel (2506.00620)"),
}


def measured(values: np.ndarray, y: np.ndarray, classes: int, scores: bool) -> tuple[dict[str, float], np.ndarray]:
    """The measures of outputs.

    Args:
        values: (rows, K) float64 features, or logits of source labels.
        y: (rows,) label ids, every label on at least one row.
        classes: target labels.
        scores: whether the outputs are logits, which `leep` and `nce` need.

    Returns:
        By name of `MEASURES` and `accuracy`, NaN where it cannot be said; and (rows,) whether each row, left out, is
        told right by the ridge map of the others.

    Raises:
        DataError: outputs that are not finite, or that are the same for all rows.
    """
    odd = int((~np.isfinite(values)).any(1).sum())
    if odd:
        what = f"NaN or infinity for {odd} of {len(values)} rows"
        fix = "weights that are whole; dtype=torch.float32 where a half type overflows"
        raise DataError("the model's outputs", what, "finite numbers", fix)
    whole, values = values, condensed(values)[0] if scores else values
    if not (values != values[:1]).any():
        raise DataError("select(rows)", "the model gives the same for all rows", "outputs that differ")
    member = np.eye(classes)[y]
    size = standardised(values)
    right = left_out(size, member, penalties_of(size, member)).argmax(1) == y
    flat = _main_directions(size)
    found = {
        "accuracy": float(right.mean()),
        "leep": leep(values, y, classes) if scores else float("nan"),
        # Of all outputs: the rest together may come before any one of them, and is no source label.
        "nce": nce(whole, y, classes) if scores else float("nan"),
        "logme": logme(np.hstack([size, np.ones((len(size), 1))]), y, classes),
        "h_score": h_score(size, y, classes),
        "transrate": transrate(size, y, classes),
        "gbc": gbc(flat, y, classes) if member.sum(0).min() > 1 else float("nan"),
    }
    return found, right


def condensed(values: np.ndarray, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(logits of the `COLUMNS` likeliest source labels and one for all others together, which those are).

    Args:
        values: (rows, K) logits.
        kept: the labels that other rows kept; None chooses.

    Example:

        >>> condensed(np.zeros((2, 5)))[0].shape
        (2, 5)
    """
    if kept is None:
        kept = likeliest(values, min(COLUMNS, values.shape[1]))
    if len(kept) == values.shape[1]:
        return values, kept
    rest = np.delete(values, kept, 1)
    top = rest.max(1, keepdims=True)
    others = top + np.log(np.exp(rest - top).sum(1, keepdims=True))
    return np.hstack([values[:, kept], others]), kept


def _main_directions(size: np.ndarray) -> np.ndarray:
    """(rows, at most `WIDTH`) the coordinates along which rows differ most."""
    u, s, _ = np.linalg.svd(size, full_matrices=False)
    return u[:, :WIDTH] * s[:WIDTH]


def interval(right: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over rows of a mean.

    Example:

        >>> interval(np.ones(20))
        (1.0, 1.0)
    """
    chosen = np.random.default_rng(seed).integers(0, len(right), (RESAMPLES, len(right)))
    low, high = np.percentile(right[chosen].mean(1), [2.5, 97.5])
    return float(low), float(high)


def remarks(values: np.ndarray, y: np.ndarray, classes: int, scores: bool) -> list[str]:
    """What to mind of these outputs: too few rows or source labels, outputs that never move."""
    made, spread = [], values.std(0)
    still = int((spread <= STILL * max(spread.mean(), 1e-30)).sum())
    if len(y) < 20 * classes:
        made.append(f"{len(y)} rows for {classes} labels: fewer than 20 a label, all measures are noisy")
    if single := int((np.bincount(y, minlength=classes) == 1).sum()):
        made.append(f"{single} of {classes} labels on one row only, which left out is always told wrong")
    if scores and values.shape[1] < classes:
        made.append(f"{values.shape[1]} source labels for {classes} labels: no map of one to one")
    if still:
        made.append(f"{still} of {len(spread)} outputs never move")
    return made
