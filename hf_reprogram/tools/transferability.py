"""What labelled outputs of a frozen model say, before training, of how well it will do: LEEP, NCE, LogME and others.

All but `nce` and `leep`, which look at the model's own classes, take any features. All are higher where the model
suits better, and none is in units of accuracy: compare them between models on the same rows and labels only. They see
the model's outputs as they are, so none knows what a program could still change.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError


TINY = 1e-300


def _checked(values: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(values as float64, one-hot labels (rows, classes)) of classes that have rows.

    Raises:
        DataError: numbers that are not finite, labels outside 0 ... classes - 1, or classes without rows.
    """
    values = np.asarray(values, dtype=np.float64)
    odd = np.flatnonzero(~np.isfinite(values).all(1))
    if len(odd):
        raise DataError(f"rows[{odd[0]}]", "NaN or infinity among the model's outputs", "finite numbers")
    labels = np.asarray(labels)
    if len(labels) != len(values) or labels.min() < 0 or labels.max() >= classes:
        raise DataError("labels", f"{len(labels)} for {len(values)} rows, {labels.min()} to {labels.max()}",
                        f"a label from 0 to {classes - 1} for each row")  # fmt: skip
    member = np.eye(classes)[labels]
    missing = np.flatnonzero(member.sum(0) == 0).tolist()
    if missing:
        raise DataError("labels", f"no row of {missing}", "rows of every label")
    return values, member


def _probabilities(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def leep(logits: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean log-likelihood of the labels under p(y | x) = sum over k of p(y | k) p(k | x) (LEEP, 2002.12462).

    p(k | x) is the softmax of the logits (rows, K), p(y | k) its empirical joint with the labels, divided by the
    source class's share. Source classes of no mass count for nothing. At most 0.

    Example:

        >>> leep(np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([0, 1]), 2) > -0.01
        True
    """
    logits, member = _checked(logits, labels, classes)
    p = _probabilities(logits)
    joint = member.T @ p / len(p)  # (classes, K)
    given = joint / np.maximum(joint.sum(0), TINY)
    return float(np.log(np.maximum((p @ given.T)[member > 0], TINY)).mean())


def nce(logits: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """-H(label | the source class that comes first), in nats (negative conditional entropy, 1908.08142).

    Example:

        >>> nce(np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([0, 1]), 2)
        0.0
    """
    logits, member = _checked(logits, labels, classes)
    first = np.unique(logits.argmax(1), return_inverse=True)[1]  # only those that do: a vocabulary squared is 20 GB
    joint = member.T @ np.eye(first.max() + 1)[first] / len(logits)
    given = joint / np.maximum(joint.sum(0), TINY)
    return float((joint[joint > 0] * np.log(given[joint > 0])).sum()) + 0.0


def h_score(features: np.ndarray, labels: np.ndarray, classes: int, shrink: bool = True) -> float:
    """tr(cov(f)^-1 cov(E[f | y])): how much of the features' spread lies between the labels (ICIP 2019).

    With `shrink` the covariance is shrunk by Ledoit and Wolf's share a and the score multiplied by 1 - a (regularised
    H-score, NeurIPS 2021); without, its pseudo-inverse is taken, which gives classes - 1 for any features where there
    are fewer rows than features. NaN where a is 1: too few rows to say anything.
    """
    features, member = _checked(features, labels, classes)
    centred = features - features.mean(0)
    means = (member / member.sum(0)).T @ centred  # (classes, dim)
    between = means.T @ (means * member.mean(0)[:, None])
    if not shrink:
        covariance = centred.T @ centred / len(centred)
        values, vectors = np.linalg.eigh(covariance)
        kept = values > 1e-10 * values.max()
        whitened = vectors[:, kept] / np.sqrt(values[kept])
        return float(np.trace(whitened.T @ between @ whitened))
    from sklearn.covariance import ledoit_wolf

    covariance, share = ledoit_wolf(centred, assume_centered=True)
    if share >= 1.0:
        return float("nan")
    return float((1.0 - share) * np.trace(np.linalg.solve(covariance, between)))


def logme(features: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean log evidence per row of Bayesian linear regression onto each one-hot label (LogME, 2102.11005).

    Per label the largest over a and b of log N(y; 0, I / b + F F' / a), by MacKay's fixed point on the singular values
    of the features (rows, dim), no intercept. Only the rank's own terms are counted: the released code counts all
    dimensions where there are fewer rows (thuml/LogME issue 23).
    """
    features, member = _checked(features, labels, classes)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    kept = s > 1e-10 * s.max()
    u, power = u[:, kept], np.square(s[kept])  # (rows, rank), (rank,)
    return float(np.mean([_evidence(u, power, y) for y in member.T]))


def _evidence(u: np.ndarray, power: np.ndarray, y: np.ndarray) -> float:
    """The evidence of one label, per row."""
    rows, along = len(y), np.square(u.T @ y)  # (rank,)
    outside = max(float(y @ y - along.sum()), 0.0)
    ratio = 1.0  # a / b
    for _ in range(100):
        gamma = (power / (power + ratio)).sum()
        weights = (power * along / np.square(power + ratio)).sum()  # |m|^2
        residual = outside + (along * np.square(ratio / (power + ratio))).sum()
        a = min(gamma / max(weights, 1e-12), 1e10)
        b = max(rows - gamma, 1e-12) / max(residual, 1e-12)
        before, ratio = ratio, min(a / b, 1e10)
        if abs(ratio - before) < 1e-5 * before:
            break
    weights = (power * along / np.square(power + ratio)).sum()
    residual = outside + (along * np.square(ratio / (power + ratio))).sum()
    logs = len(power) * np.log(a) + rows * np.log(b) - np.log(a + b * power).sum()
    return float(logs - b * residual - a * weights - rows * np.log(2 * np.pi)) / (2 * rows)


def transrate(features: np.ndarray, labels: np.ndarray, classes: int, scale: float = 1e-4) -> float:
    """R(f) - mean over the labels of R(f_c), with R = log det(I + F'F / (n scale)) / 2 (TransRate, ICML 2022).

    Features are centred over all rows, not within a label, and every label counts alike, as in the released code.
    The value depends on the features' size: bring models to one size before comparing (`standardised`).
    """
    features, member = _checked(features, labels, classes)
    centred = features - features.mean(0)

    def rate(part: np.ndarray) -> float:
        s = np.linalg.svd(part, compute_uv=False)
        return 0.5 * float(np.log1p(np.square(s) / (len(part) * scale)).sum())

    return rate(centred) - float(np.mean([rate(centred[column > 0]) for column in member.T]))


def gbc(features: np.ndarray, labels: np.ndarray, classes: int, spherical: bool = True) -> float:
    """-sum over ordered pairs of labels of exp(-Bhattacharyya distance) of their Gaussians (GBC, 2111.12780).

    Variances within a label are one number (`spherical`, their mean over dimensions) or one for each dimension.
    """
    features, member = _checked(features, labels, classes)
    means = (member / member.sum(0)).T @ features
    spread = np.stack([np.square(features[c > 0] - m).mean(0) for c, m in zip(member.T, means, strict=True)])
    if spherical:
        spread = np.repeat(spread.mean(1, keepdims=True), features.shape[1], 1)
    spread = np.maximum(spread, 1e-6 if spread.max() > 0 else 1.0)
    total = 0.0
    for i in range(classes):
        for j in range(classes):
            if i != j:
                both = (spread[i] + spread[j]) / 2
                apart = (np.square(means[i] - means[j]) / both).sum() / 8
                shape = 0.5 * (np.log(both) - 0.5 * np.log(spread[i]) - 0.5 * np.log(spread[j])).sum()
                total -= float(np.exp(-apart - shape))
    return total


def standardised(features: np.ndarray) -> np.ndarray:
    """Features centred and of mean square norm 1: models whose outputs differ only in size are then alike.

    Example:

        >>> standardised(np.array([[0.0, 0.0], [4.0, 0.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    centred = np.asarray(features, dtype=np.float64) - np.mean(features, 0)
    return centred / max(np.sqrt(np.square(centred).sum() / len(centred)), TINY)
