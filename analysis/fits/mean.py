"""Mean accuracy against log2 B: whether B matters, the best B, and how certain both are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.defaults import DRAWS, MARGIN
from analysis.fits.contrasts import SmoothTest, valley_p
from analysis.fits.curve import draw_curves
from analysis.fits.intervals import ALPHA, PERCENTILES
from analysis.fits.runs import TwoWay, successful_runs
from analysis.fits.seed_noise import draw_noise
from analysis.table.table import Floats

Verdict = Literal["equivalent", "cannot tell", "effect"]
Edge = Literal["none", "smallest", "largest", "both"]

MIN_SIZES_BETWEEN = 5
"""Smallest number of sizes from which a best B between two of them is estimated."""

_POINTS = 129


@dataclass(frozen=True)
class MeanFit:
    """Fit of the mean accuracy of a curve. Batches are B, not log2 B.

    Attributes:
        flat_p: p-value of the smooth test of a flat curve.
        adjusted_p: `flat_p`, adjusted for the other curves of a report; else the same.
        detectable: change along a straight line that this design would find with 80 % power.
        difference: largest difference between two sizes that the data allow: the 95 % upper bound
            of each pair, one-sided (two one-sided tests: Berger, 1982).
        valley_p: p-value of the claim that accuracy first falls and then rises with B.
        adjusted_valley_p: `valley_p`, adjusted likewise.
        optimum: B of the lowest expected accuracy.
        interval: 95 % interval of the best B. An end at the smallest or largest B does not exclude
            sizes beyond it.
        lowest: the size of lowest expected accuracy.
        best: expected accuracy at `optimum`.
        best_interval: 95 % interval of `best`.
        as_good: sizes that are all within `margin` of the lowest accuracy, with 95 % confidence.
        margin: in accuracy.
        at: float64 [m], B of the drawn curve.
        mean: float64 [m], expected accuracy.
        low: float64 [m], lower end of its 95 % pointwise interval.
        high: float64 [m], upper end.
    """

    flat_p: float
    adjusted_p: float
    detectable: float
    difference: float
    valley_p: float
    adjusted_valley_p: float
    optimum: float
    interval: tuple[float, float]
    lowest: int
    best: float
    best_interval: tuple[float, float]
    as_good: tuple[int, ...]
    margin: float
    at: Floats
    mean: Floats
    low: Floats
    high: Floats

    @property
    def verdict(self) -> Verdict:
        """What is shown: sizes that differ by less than `margin`, an effect of B, or neither."""
        if self.difference < self.margin:
            return "equivalent"
        return "effect" if self.adjusted_p < ALPHA else "cannot tell"

    @property
    def edge(self) -> Edge:
        """Edges of the sizes tried that `interval` reaches: what lies beyond may be better."""
        low, high = self.interval[0] <= self.at[0], self.interval[1] >= self.at[-1]
        if low and high:
            return "both"
        return "smallest" if low else "largest" if high else "none"


def fit_mean(
    batches: NDArray[np.int64],
    accuracy: Floats,
    *,
    draws: int = DRAWS,
    margin: float = MARGIN,
    seed: int = 0,
) -> MeanFit:
    """Test whether B matters, and estimate the curve and its lowest point.

    The levels of seeds that occur at several sizes are removed; the level of the curve stays the
    mean over seeds. All claims and intervals rest on draws of the noise (`seed_noise`), in which
    seeds may have curves of their own and sizes unequal variances.

    Args:
        batches: int64 [k], ascending.
        accuracy: float64 [k, n] in [0, 1]; NaN where a run is missing or has failed.
        draws: number of draws of noise and curve.
        margin: difference in accuracy that does not matter.
        seed: seed of the random draws.

    Raises:
        UserError: fewer than 3 sizes, fewer than 2 runs at most sizes, or too few runs that share
            a seed.
    """
    runs = successful_runs(batches, accuracy)
    fit = TwoWay(runs)
    random = np.random.default_rng(seed)
    noise = draw_noise(fit, draws, random)
    test = SmoothTest(runs.x, noise.errors)
    flat_p = float(test.p(fit.means[None])[0])
    at = np.linspace(runs.x[0], runs.x[-1], _POINTS)
    sizes, curves = draw_curves(runs.x, fit.means, noise.covariance, at, random)
    expected = curves.mean(0)
    low, high = np.percentile(curves + noise.level[:, None], PERCENTILES, axis=0).clip(0, 1)
    place = int(expected.argmin())
    best = float(expected[place].clip(0, 1))
    falls_and_rises_p = valley_p(runs.x, fit.means, noise.errors)
    return MeanFit(
        flat_p=flat_p,
        adjusted_p=flat_p,
        detectable=test.detectable,
        difference=_largest_difference(fit.means, noise.errors),
        valley_p=falls_and_rises_p,
        adjusted_valley_p=falls_and_rises_p,
        optimum=float(2 ** at[place]),
        interval=_interval(at[curves.argmin(1)], at[place], runs.x),
        lowest=int(runs.batches[sizes.mean(0).argmin()]),
        best=best,
        best_interval=(min(float(low[place]), best), max(float(high[place]), best)),
        as_good=tuple(runs.batches[_as_good(fit.means + noise.errors, margin)].tolist()),
        margin=margin,
        at=2**at,
        mean=expected.clip(0, 1),
        low=low,
        high=high,
    )


def _largest_difference(means: Floats, errors: Floats) -> float:
    """Return the largest upper bound of a difference of two means [k], from their errors [d, k]."""
    pairs = errors[:, :, None] - errors[:, None, :]
    bounds = np.subtract.outer(means, means) + np.quantile(pairs, 1 - ALPHA, axis=0)
    return float(bounds.max())


def _interval(places: Floats, best: float, x: Floats) -> tuple[float, float]:
    """Return the interval of the best B from draws of its place [d], and the place found.

    It is no finer than the sizes where they cannot tell more: between the two smallest or the two
    largest, and everywhere with fewer than `MIN_SIZES_BETWEEN`.
    """
    low, high = np.percentile(places, PERCENTILES)
    low, high = min(float(low), best), max(float(high), best)
    if len(x) < MIN_SIZES_BETWEEN:
        low, high = x[x <= low].max(), x[x >= high].min()
    low = x[0] if low <= x[1] else min(low, x[-2])
    high = x[-1] if high >= x[-2] else max(high, x[1])
    return float(2**low), float(2**high)


def _as_good(sizes: Floats, margin: float) -> NDArray[np.intp]:
    """Return the sizes that are all within `margin` of the lowest in 95 % of the draws [d, k].

    Draws of the means, and not of the curve, which is smoother than some truths.

    Sizes are added while that holds, the surest first.
    """
    excess = sizes - sizes.min(1, keepdims=True)
    order = np.quantile(excess, 1 - ALPHA, axis=0).argsort()
    together = np.maximum.accumulate(excess[:, order], axis=1)
    count = int(np.sum(np.mean(together < margin, axis=0) >= 1 - ALPHA))
    return np.sort(order[:count])
