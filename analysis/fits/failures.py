"""Runs that leave the images unprotected: how often, and whether more often at a larger B."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from analysis.fits.contrasts import shuffle_in_seeds, trend
from analysis.fits.runs import Runs, join_runs, testable_runs
from analysis.table.table import Curve, Floats
from bigbatch_ue.reporting.statistics import CONFIDENCE


@dataclass(frozen=True)
class Rate:
    """A share of runs.

    Attributes:
        count: number of runs with the property.
        runs: number of runs.
        low: lower end of the exact 95 % interval of the probability (Clopper and Pearson, 1934).
        high: upper end.
    """

    count: int
    runs: int
    low: float
    high: float


@dataclass(frozen=True)
class Unprotected:
    """Runs after which a network is within a margin of one trained on clean images.

    Attributes:
        sizes: how many there are at each of the k sizes; empty for several data sets.
        total: at all of them.
        rises: whether there are more at a larger B.
        trend_p: two-sided p-value of a trend of their number with log2 B; NaN if it is not tested.
        adjusted_trend_p: `trend_p`, adjusted for the same question about other curves of a report.
    """

    sizes: tuple[Rate, ...]
    total: Rate
    rises: bool
    trend_p: float
    adjusted_trend_p: float


def count_unprotected(curves: Sequence[Curve], margin: float) -> Unprotected | None:
    """Count the runs that leave images unprotected, and test whether their number follows B.

    Runs change places within their seed, which shows what trend is chance.

    Args:
        curves: a curve, or several of different data sets, each in its own range of log2 B.
        margin: difference in accuracy that does not matter.

    Returns:
        The runs, or None if the accuracy on clean images is unknown for any curve.
    """
    if not all(np.isfinite(curve.clean) for curve in curves):
        return None
    found = [_unprotected(curve, margin) for curve in curves]
    sizes = [
        _rate(int(count), int(runs))
        for one in found
        for count, runs in zip(np.nansum(one, axis=1), np.isfinite(one).sum(1), strict=True)
    ]
    total = _rate(sum(size.count for size in sizes), sum(size.runs for size in sizes))
    pairs = zip(curves, found, strict=True)
    slope, p = _trend(
        [runs for curve, one in pairs for runs in testable_runs(curve.batches, [one])]
    )
    return Unprotected(tuple(sizes) if len(curves) == 1 else (), total, slope > 0, p, p)


def _unprotected(curve: Curve, margin: float) -> Floats:
    """Return 1 for each run [k, n] that is within the margin of clean images, else 0, or NaN."""
    known = np.isfinite(curve.accuracy)
    return np.where(known, curve.accuracy >= curve.clean - margin, np.nan)


def _trend(tested: Sequence[Runs]) -> tuple[float, float]:
    """Return the slope of the share of unprotected runs, and its p-value, NaN without a test."""
    if not tested:
        return 0.0, math.nan
    runs = join_runs(tested)
    if not np.ptp(runs.values):
        return 0.0, math.nan
    return trend(runs.x, *shuffle_in_seeds(runs, np.random.default_rng(0)))


def _rate(count: int, runs: int) -> Rate:
    if not runs:
        return Rate(0, 0, 0.0, 1.0)
    ends = binomtest(count, runs).proportion_ci(CONFIDENCE, "exact")
    return Rate(count, runs, float(ends.low), float(ends.high))
