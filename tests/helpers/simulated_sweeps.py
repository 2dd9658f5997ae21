"""Simulated sweeps whose truth is known, with noise as measured on real ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.table.table import Floats

Layout = Callable[[Floats], Floats]

BATCHES = 2 ** np.arange(1, 12, dtype=np.int64)
X = np.log2(BATCHES.astype(np.float64))


@dataclass(frozen=True)
class Shape:
    """A true curve in x = log2 B, and its true optimum: x, or None where it has none."""

    curve: Callable[[Floats], Floats]
    optimum: float | None


def quadratic(lowest: float, depth: float = 0.3) -> Shape:
    """A U from `depth` above its floor at the farther edge."""
    width = max(lowest - 1, 11 - lowest)
    return Shape(lambda x: 0.4 + depth * ((x - lowest) / width) ** 2, lowest)


def hinge(knot: float, left: float = 0.3, right: float = 0.2) -> Shape:
    """A V that falls by `left` from the lower edge and rises by `right` to the upper one."""

    def curve(x: Floats) -> Floats:
        fall = left * (knot - x).clip(0) / (knot - 1)
        return 0.4 + fall + right * (x - knot).clip(0) / (11 - knot)

    return Shape(curve, knot)


def monotone(depth: float = 0.3) -> Shape:
    """A straight fall; as low as it gets at the upper edge."""
    return Shape(lambda x: 0.4 + depth * (11 - x) / 10, 11.0)


def step(threshold: float, depth: float = 0.3) -> Shape:
    """A fall to a lower level that starts at the size `threshold`."""
    return Shape(lambda x: 0.4 + depth * (x < threshold), threshold)


FLAT = Shape(lambda x: np.full_like(x, 0.5), None)


def spread(x: Floats) -> Floats:
    """Standard deviation across seeds: 0.08 in the middle, twice and 1.5 times that at the ends."""
    middle, half = 6.0, 5.0
    away = (x - middle) / half
    factor = np.where(away < 0, 2.0, 1.5)
    return 0.08 * factor ** (away**2)


def sweeps(
    shape: Shape,
    count: int,
    *,
    noise: float = 1.0,
    seeds: int = 5,
    shared: float = 0.05,
    batches: NDArray[np.int64] = BATCHES,
    seed: int = 0,
) -> Floats:
    """Accuracies of independent sweeps, float64 [count, k, seeds].

    Args:
        shape: the truth.
        count: number of sweeps.
        noise: factor on `spread`.
        seeds: runs at each size, the same seeds at all sizes.
        shared: standard deviation of the additive effect of a seed.
        batches: int64 [k].
        seed: seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    x = np.log2(batches.astype(np.float64))
    own = random.normal(size=(count, len(x), seeds)) * noise * spread(x)[:, None]
    effects = random.normal(size=(count, 1, seeds)) * shared
    accuracy: Floats = (shape.curve(x)[:, None] + own + effects).clip(0, 1)
    return accuracy


def unshared(sweep: Floats) -> Floats:
    """The same runs, each with a seed of its own."""
    k, n = sweep.shape
    alone = np.full((k, k * n), np.nan)
    for size in range(k):
        alone[size, size * n : (size + 1) * n] = sweep[size]
    return alone


def with_holes(sweep: Floats, fraction: float = 0.15, seed: int = 0) -> Floats:
    """The same sweep, some of its runs missing."""
    random = np.random.default_rng(seed)
    return np.where(random.random(sweep.shape) < fraction, np.nan, sweep)
