"""How far two samples of outputs lie apart: Wasserstein, sliced Wasserstein.

All grow with the outputs' size: bring different models to one size first (`transferability.standardised`).
"""

from __future__ import annotations

import numpy as np


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """W_1 of two samples, (n, dim) and (m, dim), exact: the mean Euclidean way of the cheapest coupling.

    By assignment where both have as many rows, else as a linear program (scipy): for some hundreds of rows.

    Example:

        >>> round(wasserstein(np.array([[0.0], [1.0], [3.0]]), np.array([[1.0], [2.0]])), 6)
        0.833333
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist
    from scipy.stats import wasserstein_distance_nd

    if len(x) != len(y):
        return float(wasserstein_distance_nd(x, y))
    cost = cdist(x, y)
    return float(cost[linear_sum_assignment(cost)].mean())


def sliced_wasserstein(
    x: np.ndarray, y: np.ndarray, power: int = 2, projections: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """(SW_p, its standard error): the p-th root of the mean over random directions of W_p^p on a line.

    SW_p is at most W_p, so it is no upper bound of anything that W_p bounds; it costs n log n.

    Args:
        x, y: (n, dim) and (m, dim).
        power: p.
        projections: directions, uniform on the sphere.
    """
    directions = np.random.default_rng(seed).normal(size=(projections, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    a, b = np.sort(x @ directions.T, 0), np.sort(y @ directions.T, 0)  # (n, projections), (m, projections)
    # Both quantile functions are constant between these shares.
    ends = np.union1d(np.arange(1, len(a) + 1) / len(a), np.arange(1, len(b) + 1) / len(b))
    widths = np.diff(ends, prepend=0.0)
    inside = ends - widths / 2
    gaps = a[(inside * len(a)).astype(int)] - b[(inside * len(b)).astype(int)]
    costs = widths @ np.abs(gaps) ** power  # (projections,) W_p^p
    mean, error = costs.mean(), costs.std(ddof=1) / projections**0.5
    value = mean ** (1 / power)
    return float(value), float(error * value / (power * mean)) if mean > 0 else 0.0


def together(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both samples less their common mean, in units of their common mean deviation.

    Example:

        >>> a, b = together([[0.0], [2.0]], [[4.0], [2.0]])
        >>> a.round(3).tolist()
        [[-1.414], [0.0]]
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    both = np.concatenate([x, y])
    mean, size = both.mean(0), max(float(both.std(0).mean()), 1e-30)
    return (x - mean) / size, (y - mean) / size
