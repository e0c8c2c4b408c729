"""Searches without gradients, all by ask and tell: points in, their losses back (M§B.1 to B.5).

Each starts at zero, in units of the program's own size, and is the same for the same seed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError, did_you_mean, first_line


class Search:
    """Base of the searches.

    Args:
        size: of a point.
        seed: of its draws.
        population: points of one generation, for those that choose it.
        reach: deviation of the first draws, or length of the steps that probe.
    """

    population: ClassVar[int] = 16
    reach: ClassVar[float] = 0.3

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        self.size, self.random = size, np.random.default_rng(seed)
        self.count = self.population if population is None else population
        self.sigma = self.reach if reach is None else reach
        self.mean = np.zeros(size)

    @property
    def generation(self) -> int:
        """Points of one `ask`."""
        return self.count

    def ask(self) -> np.ndarray:
        """(points, size) to be judged next."""
        raise NotImplementedError

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """What the points of the last `ask` are worth, all finite; lower is better."""
        raise NotImplementedError


class Cma(Search):
    """CMA-ES of `cma` (extra `blackbox`); only the diagonal above 200 numbers (BBT, 2201.03514, takes 500 whole)."""

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        super().__init__(size, seed, population, reach)
        try:
            import cma
        except ImportError as error:
            fix = "pip install 'hf-reprogram[blackbox]', or optimizer='one_plus_one'"
            raise ConfigError("cma", f"not usable ({first_line(error)})", "cma", fix) from error
        options = {
            "seed": seed + 1,  # cma takes 0 for the time of day
            "popsize": self.count,
            "verbose": -9,
            "CMA_diagonal": size > 200,
        }
        if size == 1:
            raise ConfigError("fit_blackbox(optimizer)", "'cma' for one number", "at least two", "'one_plus_one'")
        if self.count < 2:
            fix = "optimizer='one_plus_one', whose generation is one point"
            raise ConfigError("fit_blackbox(population)", f"{self.count} for 'cma'", "at least 2", fix)
        self.strategy = cma.CMAEvolutionStrategy(size * [0.0], self.sigma, options)

    def ask(self) -> np.ndarray:
        return np.array(self.strategy.ask())

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        self.strategy.tell(list(points), losses.tolist())
        self.mean = np.array(self.strategy.result.xfavorite)


class OnePlusOne(Search):
    """(1+1)-ES with the rule of one success in five (Rechenberg 1973)."""

    population = 1

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        super().__init__(size, seed, 1, reach)
        self.best = np.inf

    def ask(self) -> np.ndarray:
        if not np.isfinite(self.best):
            return self.mean[None]
        return (self.mean + self.sigma * self.random.normal(size=self.size))[None]

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        better = losses[0] <= self.best
        if np.isfinite(self.best):
            self.sigma *= np.exp(0.8 if better else -0.2)
        if better:
            self.mean, self.best = points[0], losses[0]


class Adam:
    """Adam on numpy arrays (1412.6980)."""

    def __init__(self, size: int, rate: float) -> None:
        self.rate, self.first, self.second, self.steps = rate, np.zeros(size), np.zeros(size), 0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What to subtract."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        return self.rate * first / (np.sqrt(second) + 1e-8)


class Bar(Search):
    """BAR's estimate from one side, d / (b q) sum_j [L(x + b u_j) - L(x)] u_j with u_j on the unit sphere, and Adam.

    2007.08714. The released code computes it and then applies the white-box gradient: its numbers are none of this.
    """

    population = 10
    rate: ClassVar[float] = 0.05

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        super().__init__(size, seed, population, reach)
        self.adam = Adam(size, self.rate)

    @property
    def generation(self) -> int:
        return self.count + 1

    def ask(self) -> np.ndarray:
        return np.vstack([self.mean, self.mean + self.sigma * on_sphere(self.random, self.count, self.size)])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        self.mean = self.mean - self.adam.step(one_sided(points, losses))


class Spsa(Search):
    """SPSA with gradient correction (BlackVIP, 2303.14773): both sides of random corners, and a momentum ahead.

    The estimate is scaled to the length of the program's unit: with large losses the raw steps run away (M§B.7).
    """

    population = 5
    reach = 0.1
    gain: ClassVar[float] = 0.1

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        super().__init__(size, seed, population, reach)
        self.moment, self.steps = np.zeros(size), 0

    @property
    def generation(self) -> int:
        return 2 * self.count

    def ask(self) -> np.ndarray:
        self.steps += 1
        shift = self.sigma / self.steps**0.1
        corner = self.random.choice([-1.0, 1.0], (self.count, self.size))
        corner = corner * self.random.uniform(0.5, 1.0, corner.shape)
        return np.vstack([self.mean + shift * corner, self.mean - shift * corner])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        gradient = two_sided(points, losses)
        gradient /= max(float(np.linalg.norm(gradient)) / self.size**0.5, 1e-12)
        self.moment = 0.9 * self.moment + gradient
        self.mean = self.mean - self.gain / (self.steps + 1) ** 0.4 * (gradient + 0.9 * self.moment) / 10


class Antithetic(Search):
    """Evolution strategies in pairs: (L(x + s e) - L(x - s e)) e / (2 q s), losses by rank, and Adam (1703.03864)."""

    population = 8
    reach = 0.1
    rate: ClassVar[float] = 0.05

    def __init__(self, size: int, seed: int, population: int | None = None, reach: float | None = None) -> None:
        super().__init__(size, seed, population, reach)
        self.adam = Adam(size, self.rate)

    @property
    def generation(self) -> int:
        return 2 * self.count

    def ask(self) -> np.ndarray:
        drawn = self.random.normal(size=(self.count, self.size))
        return np.vstack([self.mean + self.sigma * drawn, self.mean - self.sigma * drawn])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        from scipy.stats import rankdata

        ranks = rankdata(losses) / len(losses) - 0.5
        self.mean = self.mean - self.adam.step(paired(points, ranks, self.sigma))


SEARCHES: dict[str, type[Search]] = {
    "cma": Cma, "one_plus_one": OnePlusOne, "bar": Bar, "spsa": Spsa, "antithetic": Antithetic,
}  # fmt: skip


def search_of(name: str, size: int, seed: int, population: int | None = None) -> Search:
    """A search by its name.

    Raises:
        ConfigError: an unknown one.
    """
    if name not in SEARCHES:
        raise ConfigError("fit_blackbox(optimizer)", f"{name!r}", fix=did_you_mean(name, ["auto", *SEARCHES]))
    return SEARCHES[name](size, seed, population)


# Estimates of a gradient ---------------------------------------------------------------------------------------------


def on_sphere(random: Any, count: int, size: int) -> np.ndarray:
    """(count, size) directions of length 1."""
    drawn = random.normal(size=(count, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def one_sided(points: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """BAR's estimate: the first point is where we are, the others are at one distance b around it.

    Example:

        >>> x = np.array([[1.0, 2.0], [1.1, 2.0], [1.0, 2.1]])
        >>> one_sided(x, np.square(x).sum(1)).round(6).tolist()
        [2.1, 4.1]
    """
    steps = points[1:] - points[0]
    far = np.linalg.norm(steps, axis=1, keepdims=True)
    return points.shape[1] * ((losses[1:] - losses[0])[:, None] * steps / far**2).mean(0)


def two_sided(points: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """SPSA's estimate: the first half of the points lies opposite to the second.

    Example:

        >>> d = 0.1 * np.array([0.6, -0.8])
        >>> x = np.array([[1.0, 2.0] + d, [1.0, 2.0] - d])
        >>> two_sided(x, np.square(x).sum(1)).round(4).tolist()
        [-3.3333, 2.5]
    """
    half = len(points) // 2
    apart = points[:half] - points[half:]
    return ((losses[:half] - losses[half:])[:, None] / apart).mean(0)


def paired(points: np.ndarray, losses: np.ndarray, sigma: float) -> np.ndarray:
    """The estimate of antithetic pairs x + s e, x - s e with normal e.

    Example:

        >>> x = np.array([[1.1, 2.0], [1.0, 2.1], [0.9, 2.0], [1.0, 1.9]])
        >>> paired(x, np.square(x).sum(1), 0.1).round(6).tolist()  # half the gradient: the mean of these e e' is I / 2
        [1.0, 2.0]
    """
    half = len(points) // 2
    drawn = (points[:half] - points[half:]) / (2 * sigma)
    return ((losses[:half] - losses[half:])[:, None] * drawn).mean(0) / (2 * sigma)
