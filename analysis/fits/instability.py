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
from analysis.fits.contrasts import trend, valley_p
from analysis.fits.curve import draw_curves
from analysis.fits.intervals import ALPHA, PERCENTILES
from analysis.fits.runs import Runs, successful_runs
from analysis.table.table import Floats
from bigbatch_ue.runtime.errors import UserError

Kind = Literal["seeds", "oscillation"]
Shape = Literal["both ends", "small batches", "large batches", "even", "inconclusive"]

EVEN_RATIO = 3.0
"""`even` requires evidence that any two standard deviations differ by less than this factor."""

_MIN_SIZES = 4
_POINTS = 129
_LENGTHS = (0.3, 1.0, 3.0)
"""Lengths over which a standard deviation may bend, in units of the range of log2 B."""
_PERMUTATIONS = 9999
_POLISHES = 5
"""Rounds in which medians of sizes and of seeds are removed."""


@dataclass(frozen=True)
class InstabilityFit:
    """Fit of one kind of instability against B. Batches are B, not log2 B.

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
        change: standard deviation at the largest B divided by that at the smallest.
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
    def shape(self) -> Shape:
        """Where runs are shown to be unstable; the first that applies."""
        if self.adjusted_both_ends_p < ALPHA:
            return "both ends"
        if self.adjusted_trend_p < ALPHA:
            return "large batches" if self.rises else "small batches"
        return "even" if self.largest_ratio < EVEN_RATIO else "inconclusive"


def fit_spread(
    batches: NDArray[np.int64],
    accuracy: Floats,
    *,
    resolution: float,
    draws: int = DRAWS,
    seed: int = 0,
) -> InstabilityFit:
    """Test at which B runs of different seeds differ most, and estimate their spread as a curve.

    A run counts by the rank of its distance from the medians of its size and of its seed, as a
    normal score (Fligner and Killeen, 1976): a run that failed is one rank. Scores that change
    places within their seed show what trend, or what fall and rise, is chance.

    The spread of fractions is small near 0 and 1, and so follows their mean. Every claim is
    therefore tested on accuracies and on their log odds, and the larger p-value holds.

    Args:
        batches: int64 [k], effective batches, ascending.
        accuracy: float64 [k, n], each run's final accuracy; NaN where it is missing.
        resolution: > 0, accuracy of a single test image.
        draws: number of draws of the curve.
        seed: seed of the random draws.
    """
    present = np.isfinite(accuracy)
    count = present.sum(1)
    mean = _ratio(np.where(present, accuracy, 0).sum(1), count)
    squares = np.where(present, (accuracy - mean[:, None]) ** 2, 0).sum(1)
    outcomes = [accuracy, _log_odds(accuracy, resolution)]
    return _fit(
        "seeds",
        batches,
        _ratio(squares, count - 1),
        count - 1.0,
        [replace(runs, values=_scores(runs)) for runs in _testable(batches, outcomes)],
        resolution,
        draws,
        np.random.default_rng(seed),
    )


def fit_oscillation(
    batches: NDArray[np.int64],
    oscillation: Floats,
    accuracy: Floats,
    *,
    resolution: float,
    tail_epochs: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> InstabilityFit:
    """Test at which B a run's accuracy oscillates most, and estimate the oscillation as a curve.

    Its logarithms change places within their seed, as the scores of `fit_spread` do. Every claim is
    tested on the oscillation of accuracies, and on that of their log odds, which is larger by
    1 / (a (1 - a)) at accuracy a; the larger p-value holds.

    Args:
        batches: int64 [k], effective batches, ascending.
        oscillation: float64 [k, n], each run's standard deviation of accuracy around a line over
            its last epochs; NaN where it is missing.
        accuracy: float64 [k, n], each run's final accuracy.
        resolution: > 0, accuracy of a single test image; less oscillation counts as half of it.
        tail_epochs: number of the last epochs; below 3 nothing is measured.
        draws: number of draws of the curve.
        seed: seed of the random draws.
    """
    known = np.isfinite(oscillation) if tail_epochs >= 3 else np.zeros(oscillation.shape, bool)
    count = known.sum(1)
    variance = _ratio(np.where(known, oscillation**2, 0).sum(1), count)
    log = np.log(np.maximum(oscillation, resolution / 2))
    odds = _log_odds(accuracy, resolution)
    outcomes = [
        np.where(known, one, np.nan) for one in (log, log + 2 * np.log(2 * np.cosh(odds / 2)))
    ]
    return _fit(
        "oscillation",
        batches,
        variance,
        count * (tail_epochs - 2.0),
        _testable(batches, outcomes),
        resolution,
        draws,
        np.random.default_rng(seed),
    )


def _testable(batches: NDArray[np.int64], outcomes: Sequence[Floats]) -> list[Runs]:
    """Return the runs of each outcome [k, n]; none if they are too few to be tested."""
    try:
        return [successful_runs(batches, outcome) for outcome in outcomes]
    except UserError:
        return []


def _fit(
    kind: Kind,
    batches: NDArray[np.int64],
    variance: Floats,
    freedom: Floats,
    scored: Sequence[Runs],
    resolution: float,
    draws: int,
    random: np.random.Generator,
) -> InstabilityFit:
    """Test the scores of all scales, and draw a curve through the variances [k]."""
    unknown = np.full(_POINTS, np.nan)
    at = np.geomspace(float(batches[0]), float(batches[-1]), _POINTS)
    both_ends_p = trend_p = largest_ratio = change = low_change = high_change = math.nan
    fitted, low, high, slopes = unknown, unknown, unknown, [0.0]
    if scored and len(scored[0].batches) >= _MIN_SIZES:
        tests = [_test(runs, random) for runs in scored]
        slopes = [slope for slope, _, _ in tests]
        agree = min(slopes) > 0 or max(slopes) < 0
        trend_p = max(p for _, p, _ in tests) if agree else 1.0
        both_ends_p = max(p for _, _, p in tests)
        known = np.isfinite(variance) & (freedom > 0)
        log_std = np.log(np.maximum(np.sqrt(variance[known]), resolution / 2))
        error = polygamma(1, freedom[known] / 2) / 4  # variance of the log of a standard deviation
        largest_ratio = _largest_ratio(log_std, error)
        x = np.log2(batches[known].astype(np.float64))
        covariance = np.broadcast_to(np.diag(error), (draws, len(x), len(x)))
        curves = draw_curves(x, log_std, covariance, np.log2(at), random, _LENGTHS)[1]
        low_change, change, high_change = np.exp(
            np.percentile(curves[:, -1] - curves[:, 0], (PERCENTILES[0], 50, PERCENTILES[1]))
        ).tolist()
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


def _test(runs: Runs, random: np.random.Generator) -> tuple[float, float, float]:
    """Return the slope of scores, its p-value, and the p-value of a fall and a rise.

    The scores change places within their seed; those of seeds that occur once, among themselves.
    """
    if not np.ptp(runs.values):
        return 0.0, 1.0, 1.0
    average = runs.at_size / runs.at_size.sum(1, keepdims=True)
    block = np.where(runs.of_seed.any(0), runs.seed + 1, 0)
    order = np.argsort(block + random.random((_PERMUTATIONS, len(block))), axis=1)
    shuffled = np.empty((_PERMUTATIONS, len(block)))
    shuffled[:, np.argsort(block, kind="stable")] = runs.values[order]
    means = average @ runs.values
    errors = shuffled @ average.T - means.mean()
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


def _log_odds(accuracy: Floats, resolution: float) -> Floats:
    """Return the log odds of accuracies, which are at least half a test image away from 0 and 1."""
    odds: Floats = logit(accuracy.clip(resolution / 2, 1 - resolution / 2))
    return odds


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
