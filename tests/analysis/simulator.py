"""Curves of which the truth is known: shapes, and the noise of runs around them.

The simulator shares nothing with the analysis. Accuracies are fractions; z runs from 0 at the
smallest to 1 at the largest size, evenly in log2 B.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]
Noise = Callable[[int, int, float, np.random.Generator], Floats]

FAILED = 0.5
"""By how much a run that leaves the images unprotected is above the others."""


def v_at(place: float) -> Shape:
    """Two straight lines that meet at `place`; 1 at the farther end."""
    return lambda z: np.abs(z - place) / max(place, 1 - place)


def _bump(z: Floats, place: float, width: float) -> Floats:
    bump: Floats = np.exp(-(((z - place) / width) ** 2) / 2)
    return bump


SHAPES: dict[str, Shape] = {
    "flat": np.zeros_like,
    "slope": lambda z: z,
    "U": lambda z: 4 * (z - 0.5) ** 2,
    "one narrow valley": lambda z: 1 - _bump(z, 0.45, 0.13),
    "two valleys": lambda z: 1 - _bump(z, 0.2, 0.1) - _bump(z, 0.8, 0.1),
    "skewed valley": lambda z: np.where(z < 0.7, (0.7 - z) / 0.7, ((z - 0.7) / 0.3) ** 2),
    "saturating window": lambda z: expit((np.abs(z - 0.5) - 0.25) / 0.04),
    "step": lambda z: (z > 0.6).astype(np.float64),
    "V in the middle": v_at(0.5),
    "V at 0.8": v_at(0.8),
}
"""Shapes from 0 at the best place to 1, by name."""


def first_gap(k: int) -> Shape:
    """A V whose lowest point lies between the two smallest of k sizes."""
    return v_at(0.5 / (k - 1))


def last_gap(k: int) -> Shape:
    """A V whose lowest point lies between the two largest of k sizes."""
    return v_at(1 - 0.5 / (k - 1))


def normal(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
    """Independent normal noise."""
    return random.normal(0, std, (k, n))


def student(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
    """Heavy tails: Student's t with three degrees of freedom, of the same standard deviation."""
    return random.standard_t(3, (k, n)) * std / np.sqrt(3)


def failing(share: float) -> Noise:
    """Normal noise, and a share of the runs leaves the images unprotected, whatever B."""

    def noise(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
        return normal(k, n, std, random) + FAILED * (random.random((k, n)) < share)

    return noise


def largest_noisier(factor: float) -> Noise:
    """Normal noise, whose standard deviation is larger at the largest size alone."""

    def noise(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
        values = normal(k, n, std, random)
        values[-1] *= factor
        return values

    return noise


def slopes(factor: float) -> Noise:
    """Normal noise, and every seed has a slope: its standard deviation at the ends is `factor`."""

    def noise(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
        z = np.linspace(-1, 1, k)[:, None]
        return normal(k, n, std, random) + factor * std * z * random.normal(size=n)

    return noise


def autoregressive(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
    """A first-order autoregression over the sizes, with correlation 0.8 between neighbours."""
    place = np.arange(k)
    root = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(place, place)))
    values: Floats = root @ random.normal(0, std, (k, n))
    return values


def holes(k: int, n: int, std: float, random: np.random.Generator) -> Floats:
    """Normal noise; a fifth of the runs is missing, but two at each size."""
    values = normal(k, n, std, random)
    missing = random.random((k, n)) < 0.2
    missing[:, :2] = False
    values[missing] = np.nan
    return values


NOISES: dict[str, Noise] = {
    "normal": normal,
    "Student's t, 3 df": student,
    "one run in 20 fails": failing(0.05),
    "7.5 % of runs fail": failing(0.075),
    "largest B x 2": largest_noisier(2),
    "largest B x 4": largest_noisier(4),
    "largest B x 6": largest_noisier(6),
    "slopes x 1.5": slopes(1.5),
    "slopes x 3": slopes(3),
    "autoregressive": autoregressive,
    "a fifth missing": holes,
}


@dataclass(frozen=True)
class Design:
    """The sizes and seeds of a sweep, and the noise of its runs.

    Attributes:
        sizes: number of sizes, k, each twice the one before.
        seeds: number of seeds, n.
        std: standard deviation of a run, apart from the level of its seed.
        noise: its distribution.
        seed_std: standard deviation of the levels of seeds.
    """

    sizes: int
    seeds: int
    std: float = 0.08
    noise: Noise = normal
    seed_std: float = 0.05

    @property
    def batches(self) -> NDArray[np.int64]:
        """The sizes, int64 [k]."""
        return 2 ** np.arange(4, 4 + self.sizes)

    def z(self, batch: float) -> float:
        """The place of a batch, from 0 to 1."""
        return float((np.log2(batch) - 4) / (self.sizes - 1))

    def accuracy(
        self, shape: Shape, depth: float, random: np.random.Generator, level: float = 0.35
    ) -> Floats:
        """Simulate the accuracies [k, n] of a sweep; `level` is the lowest expected one."""
        mean = level + depth * shape(np.linspace(0, 1, self.sizes))
        seeds = random.normal(0, self.seed_std, self.seeds)
        return mean[:, None] + self.noise(self.sizes, self.seeds, self.std, random) + seeds

    def bounded(self, shape: Shape, low: float, high: float, random: np.random.Generator) -> Floats:
        """Simulate accuracies [k, n] whose noise is even in log odds: small near 0 and 1."""
        odds = logit(low + (high - low) * shape(np.linspace(0, 1, self.sizes)))
        return expit(odds[:, None] + self.noise(self.sizes, self.seeds, 0.35, random))
