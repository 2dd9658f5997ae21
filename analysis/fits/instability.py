"""Instability against log2 B: where the accuracy of runs spreads, across seeds or within a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, polygamma
from scipy.stats import norm, rankdata

from analysis.defaults import DRAWS
from analysis.fits.contrasts import shuffle_in_seeds, trend, valley_p
from analysis.fits.curve import draw_curves
from analysis.fits.intervals import ALPHA, PERCENTILES
from analysis.fits.runs import Batches, Runs, join_runs, places, testable_runs
from analysis.table.table import Curve, Floats

Kind = Literal["seeds", "oscillation"]
Shape = Literal["both ends", "small batches", "large batches", "even", "inconclusive"]

EVEN_RATIO = 3.0
"""`even` requires evidence that any two standard deviations differ by less than this factor."""

MIN_SPREAD_SIZES = 4
"""Fewest sizes of which a change of spread is tested."""
_POINTS = 129
_LENGTHS = (0.3, 1.0, 3.0)
"""Lengths over which a standard deviation may bend, in units of the range of log2 B."""
_POLISHES = 5
"""Rounds in which medians of sizes and of seeds are removed."""


@dataclass(frozen=True)
class InstabilityFit:
    """Fit of one kind of instability against B. Batches are B, not log2 B.

    Of several data sets, standard deviations are relative to that of each set over all B, and B is
    2 to the power of its place in the set's own range of log2 B, from 0 to 1.

    Attributes:
        kind: `seeds`: standard deviation across seeds. `oscillation`: within a run.
        both_ends_p: p-value of the claim that it falls and then rises with B; NaN with too few
            runs.
        trend_p: two-sided p-value of a trend with B.
        adjusted_both_ends_p: `both_ends_p`, adjusted for the other tests of instability of a
            report.
        adjusted_trend_p: `trend_p`, likewise.
        rises: whether the trend is upwards.
        largest_ratio: largest ratio of standard deviations at two sizes that the data allow.
        change: standard deviation at the largest B divided by that at the smallest, along a
            straight line through the logarithms of those at all sizes.
        change_interval: 95 % interval of `change`.
        std: float64 [k], measured standard deviation at each size, NaN below two runs; for
            `oscillation` the root mean square over runs, NaN without a run.
        at: float64 [m], B of the drawn curve.
        fitted: float64 [m], standard deviation by the curve.
        low: float64 [m], lower end of its 95 % pointwise interval.
        high: float64 [m], upper end.
    """

    kind: Kind
    both_ends_p: float
    trend_p: float
    adjusted_both_ends_p: float
    adjusted_trend_p: float
    rises: bool
    largest_ratio: float
    change: float
    change_interval: tuple[float, float]
    std: Floats
    at: Floats
    fitted: Floats
    low: Floats
    high: Floats

    @property
    def is_measured(self) -> bool:
        """Whether the standard deviation at any size is known."""
        return bool(np.isfinite(self.std).any())

    @property
    def adjusted_p(self) -> float:
        """The smaller adjusted p-value of the two claims that runs are unstable."""
        return min(self.adjusted_both_ends_p, self.adjusted_trend_p)

    @property
    def shape(self) -> Shape:
        """Where runs are shown to be unstable; the first that applies."""
        if self.adjusted_both_ends_p < ALPHA:
            return "both ends"
        if self.adjusted_trend_p < ALPHA:
            return "large batches" if self.rises else "small batches"
        return "even" if self.largest_ratio < EVEN_RATIO else "inconclusive"


@dataclass(frozen=True)
class Deviations:
    """How far runs lie from where they are expected: k sizes, for one data set or several.

    Attributes:
        batches: [k], effective batches, ascending.
        variance: float64 [k], variance at each size; NaN where it is unknown.
        freedom: float64 [k], its degrees of freedom.
        scored: a number for each run that is large where it deviates, on one or two scales; empty
            if the runs are too few to be tested.
        floor: smallest standard deviation that can be measured.
    """

    batches: Batches
    variance: Floats
    freedom: Floats
    scored: Sequence[Runs]
    floor: float

    @property
    def can_be_tested(self) -> bool:
        """Whether there are enough runs and sizes."""
        return bool(self.scored) and len(self.scored[0].batches) >= MIN_SPREAD_SIZES

    @property
    def unit(self) -> float:
        """The standard deviation over all sizes; 0 if it is unknown."""
        known = np.isfinite(self.variance) & (self.freedom > 0)
        if not known.any():
            return 0.0
        return math.sqrt(np.average(self.variance[known], weights=self.freedom[known]))


def deviations_of(curve: Curve) -> dict[Kind, Deviations]:
    """Return both kinds of deviations of the runs of a curve."""
    batches, accuracy, resolution = curve.batches, curve.accuracy, curve.resolution
    return {
        "seeds": deviations_across_seeds(batches, accuracy, resolution=resolution),
        "oscillation": deviations_within_runs(
            batches,
            curve.oscillation,
            accuracy,
            resolution=resolution,
            tail_epochs=curve.tail_epochs,
        ),
    }


def deviations_across_seeds(
    batches: NDArray[np.int64], accuracy: Floats, *, resolution: float
) -> Deviations:
    """Return how far the runs at each B lie apart.

    A run counts by the rank of its distance from the medians of its size and of its seed, as a
    normal score (Fligner and Killeen, 1976): a run that failed is one rank.

    The spread of fractions is small near 0 and 1, and so follows their mean. Every claim is
    therefore tested on accuracies and on their log odds, and the larger p-value holds.

    Args:
        batches: int64 [k], effective batches, ascending.
        accuracy: float64 [k, n], each run's final accuracy; NaN where it is missing.
        resolution: > 0, accuracy of a single test image.
    """
    present = np.isfinite(accuracy)
    count = present.sum(1)
    mean = _ratio(np.where(present, accuracy, 0).sum(1), count)
    squares = np.where(present, (accuracy - mean[:, None]) ** 2, 0).sum(1)
    scales = [accuracy, log_odds(accuracy, resolution)]
    return Deviations(
        batches,
        _ratio(squares, count - 1),
        count - 1.0,
        [replace(runs, values=_scores(runs)) for runs in testable_runs(batches, scales)],
        resolution / 2,
    )


def deviations_within_runs(
    batches: NDArray[np.int64],
    oscillation: Floats,
    accuracy: Floats,
    *,
    resolution: float,
    tail_epochs: int,
) -> Deviations:
    """Return how far the accuracies of a run oscillate around a line, at each B.

    Every claim is tested on logarithms of the oscillation of accuracies, and of that of their log
    odds, which is larger by 1 / (a (1 - a)) at accuracy a; the larger p-value holds.

    Args:
        batches: int64 [k], effective batches, ascending.
        oscillation: float64 [k, n], each run's standard deviation of accuracy around a line over
            its last epochs; NaN where it is missing.
        accuracy: float64 [k, n], each run's final accuracy.
        resolution: > 0, accuracy of a single test image; less oscillation counts as half of it.
        tail_epochs: number of the last epochs; below 3 nothing is measured.
    """
    known = np.isfinite(oscillation) if tail_epochs >= 3 else np.zeros(oscillation.shape, bool)
    count = known.sum(1)
    log = np.log(np.maximum(oscillation, resolution / 2))
    odds = log_odds(accuracy, resolution)
    scales = [log, log + 2 * np.log(2 * np.cosh(odds / 2))]
    return Deviations(
        batches,
        _ratio(np.where(known, oscillation**2, 0).sum(1), count),
        count * (tail_epochs - 2.0),
        testable_runs(batches, [np.where(known, one, np.nan) for one in scales]),
        resolution / 2,
    )


def pool(deviations: Sequence[Deviations]) -> Deviations:
    """Join the deviations of several data sets, each in units of its own spread and range of B.

    Args:
        deviations: of data sets whose runs can be tested and differ.

    Returns:
        Deviations relative to the standard deviation of each set over all B, at `batches` from 1 to
        2: 2 to the power of the place in the set's range of log2 B, from 0 to 1.
    """
    units = [_in_own_units(one) for one in deviations]
    batches = np.unique(np.concatenate([one.batches for one in units]))
    squares, freedom = np.zeros((2, len(batches)))
    for one in units:
        known = np.isfinite(one.variance) & (one.freedom > 0)
        sizes = np.searchsorted(batches, one.batches[known])
        squares[sizes] += one.freedom[known] * one.variance[known]
        freedom[sizes] += one.freedom[known]
    scales = zip(*(one.scored for one in deviations), strict=True)
    floor = max(one.floor for one in units)
    return Deviations(
        batches, _ratio(squares, freedom), freedom, list(map(join_runs, scales)), floor
    )


def _in_own_units(one: Deviations) -> Deviations:
    """Return the deviations at the sizes that were tested, in units of their own."""
    tested = one.scored[0].batches
    kept = np.isin(one.batches, tested)
    variance = one.variance[kept] / one.unit**2
    return replace(
        one,
        batches=places(tested),
        variance=variance,
        freedom=one.freedom[kept],
        floor=one.floor / one.unit,
    )


def fit_instability(
    kind: Kind, deviations: Deviations, *, draws: int = DRAWS, seed: int = 0
) -> InstabilityFit:
    """Test at which B runs deviate most, and estimate their standard deviation as a curve.

    The scores change places within their seed, which shows what trend, or what fall and rise, is
    chance. A trend is claimed only if the standard deviation itself changes in that direction:
    where seeds come closer to each other, what is left beside the level of a seed grows.

    Args:
        kind: which instability it is.
        deviations: of one data set, or of several that were pooled.
        draws: number of draws of the curve.
        seed: seed of the random draws.
    """
    random = np.random.default_rng(seed)
    batches, variance, freedom = deviations.batches, deviations.variance, deviations.freedom
    unknown = np.full(_POINTS, np.nan)
    at = np.geomspace(float(batches[0]), float(batches[-1]), _POINTS)
    both_ends_p = trend_p = largest_ratio = change = low_change = high_change = math.nan
    fitted, low, high, slopes = unknown, unknown, unknown, [0.0]
    if deviations.can_be_tested:
        tests = [_test(runs, random) for runs in deviations.scored]
        slopes = [slope for slope, _, _ in tests]
        both_ends_p = max(p for _, _, p in tests)
        known = np.isfinite(variance) & (freedom > 0)
        log_std = np.log(np.maximum(np.sqrt(variance[known]), deviations.floor))
        error = log_std_variance(freedom[known])
        largest_ratio = _largest_ratio(log_std, error)
        x = np.log2(batches[known].astype(np.float64))
        weights = change_weights(x, error)
        along_line = float(weights @ log_std)
        half = float(norm.ppf(1 - ALPHA / 2)) * math.sqrt(weights**2 @ error)
        change, low_change, high_change = np.exp(
            [along_line, along_line - half, along_line + half]
        ).tolist()
        agree = len({np.sign(slope) for slope in (*slopes, along_line)}) == 1
        trend_p = max(p for _, p, _ in tests) if agree else 1.0
        covariance = np.broadcast_to(np.diag(error), (draws, len(x), len(x)))
        curves = draw_curves(x, log_std, covariance, np.log2(at), random, _LENGTHS)[1]
        low, fitted, high = np.exp(
            np.percentile(curves, (PERCENTILES[0], 50, PERCENTILES[1]), axis=0)
        )
    return InstabilityFit(
        kind=kind,
        both_ends_p=both_ends_p,
        trend_p=trend_p,
        adjusted_both_ends_p=both_ends_p,
        adjusted_trend_p=trend_p,
        rises=slopes[0] > 0,
        largest_ratio=largest_ratio,
        change=change,
        change_interval=(low_change, high_change),
        std=np.sqrt(variance),
        at=at,
        fitted=fitted,
        low=low,
        high=high,
    )


def log_odds(accuracy: Floats, resolution: float) -> Floats:
    """Return the log odds of accuracies, which are at least half a test image away from 0 and 1."""
    odds: Floats = logit(accuracy.clip(resolution / 2, 1 - resolution / 2))
    return odds


def log_std_variance(freedom: Floats) -> Floats:
    """Return the variance of the logarithm of a normal standard deviation."""
    variance: Floats = polygamma(1, freedom / 2) / 4
    return variance


def change_weights(x: Floats, variance: Floats) -> Floats:
    """Return the weights [k] that make of values the change of their line over the range of x.

    Args:
        x: float64 [k], sizes as log2 B.
        variance: float64 [k], variance of the value at each size.
    """
    from_centre = (x - np.average(x, weights=1 / variance)) / variance
    weights: Floats = np.ptp(x) * from_centre / (from_centre @ x)
    return weights


def _test(runs: Runs, random: np.random.Generator) -> tuple[float, float, float]:
    """Return the slope of scores, its p-value, and the p-value of a fall and a rise."""
    if not np.ptp(runs.values):
        return 0.0, 1.0, 1.0
    means, errors = shuffle_in_seeds(runs, random)
    return *trend(runs.x, means, errors), valley_p(runs.x, means, errors)


def _scores(runs: Runs) -> Floats:
    """Return the normal scores [N] of the runs' distances from the medians of size and seed."""
    left = runs.values.copy()
    for _ in range(_POLISHES):
        for group in (runs.size, runs.seed):
            for one in np.unique(group):
                left[group == one] -= np.median(left[group == one])
    ranks = rankdata(np.abs(left).round(12))
    scores: Floats = norm.ppf(0.5 + ranks / (2 * (len(ranks) + 1)))
    return scores


def _largest_ratio(log_std: Floats, error: Floats) -> float:
    """Return the largest 95 % upper bound, one-sided, of a ratio of two standard deviations.

    Args:
        log_std: float64 [k].
        error: float64 [k], variance of `log_std`.
    """
    quantile = float(norm.ppf(1 - ALPHA))
    bounds = np.subtract.outer(log_std, log_std) + quantile * np.sqrt(np.add.outer(error, error))
    return float(np.exp(bounds[~np.eye(len(error), dtype=bool)].max()))


def _ratio(total: Floats, count: Floats | NDArray[np.int64]) -> Floats:
    """Divide, with NaN where the count is not positive."""
    result: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return result
