"""Whether the spread across seeds changes with B by the same factor in every data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fits.contrasts import shuffled_values
from analysis.fits.instability import (
    MIN_SPREAD_SIZES,
    change_weights,
    log_odds,
    log_std_variance,
)
from analysis.fits.runs import Runs, testable_runs
from analysis.table.table import Curve, Floats

MIN_SETS = 2
"""Fewest data sets that are compared."""
_FLOOR = 5e-4
"""Smallest standard deviation that counts, of accuracies or of log odds."""


@dataclass(frozen=True)
class SpreadChanges:
    """How the standard deviation across seeds changes with B in each of several data sets.

    Attributes:
        factors: standard deviation at the largest B divided by that at the smallest, along a
            straight line through the logarithms of those at all sizes; NaN with fewer than four
            sizes of two runs, or if all runs of each size are equal.
        differ_p: p-value of the claim that the known factors differ; NaN if fewer than two are.
        adjusted_differ_p: `differ_p`, adjusted for the same claim about other curves of a report.
    """

    factors: tuple[float, ...]
    differ_p: float
    adjusted_differ_p: float


def compare_spread(curves: Sequence[Curve], *, seed: int = 0) -> SpreadChanges:
    """Compare the factors by which the spread of data sets changes.

    The statistic is Cochran's Q (1954) of the logarithms. Distances from the median of their size
    change places within their seed, which shows what Q is where spread does not depend on B.
    Accuracies and their log odds are tested, and the larger p-value holds. Of sweeps whose factors
    are equal, at most 4 % are said to differ, failed runs and heavy tails included.

    Args:
        curves: one for each data set.
        seed: seed of the random draws.
    """
    random = np.random.default_rng(seed)
    scales = [[_changes(runs, random) for runs in _distances(curve)] for curve in curves]
    factors = [math.exp(one[0][0][0]) if one else math.nan for one in scales]
    known = [one for one in scales if one]
    p = math.nan
    if len(known) >= MIN_SETS:
        p = max(_differ_p(*zip(*scale, strict=True)) for scale in zip(*known, strict=True))
    return SpreadChanges(tuple(factors), p, p)


def _distances(curve: Curve) -> list[Runs]:
    """Return how far runs lie from the median of their size, in accuracy and in log odds."""
    several = np.isfinite(curve.accuracy).sum(1) >= 2
    if several.sum() < MIN_SPREAD_SIZES:
        return []
    accuracy = curve.accuracy[several]
    scales = [accuracy, log_odds(accuracy, curve.resolution)]
    distances = [values - np.nanmedian(values, axis=1, keepdims=True) for values in scales]
    if not np.nansum(np.abs(distances[0])):
        return []
    return testable_runs(curve.batches[several], distances)


def _changes(runs: Runs, random: np.random.Generator) -> tuple[Floats, float]:
    """Return the change of the runs, then those of shuffled ones [1 + d], and the variance."""
    variance = log_std_variance(runs.at_size.sum(1) - 1)
    weights = change_weights(runs.x, variance)
    values = np.vstack([runs.values, shuffled_values(runs, random)])
    return _log_std(runs, values) @ weights, float(weights**2 @ variance)


def _log_std(runs: Runs, values: Floats) -> Floats:
    """Return the logarithms of the standard deviations at sizes [d, k], of values [d, N]."""
    count = runs.at_size.sum(1)
    squares = values**2 @ runs.at_size.T - (values @ runs.at_size.T) ** 2 / count
    log_std: Floats = np.log(np.maximum(squares / (count - 1), _FLOOR**2)) / 2
    return log_std


def _differ_p(changes: Sequence[Floats], variances: Sequence[float]) -> float:
    weights = 1 / np.array(variances)[:, None]
    mean = (weights * changes).sum(0) / weights.sum()
    q, *by_chance = (weights * (np.array(changes) - mean) ** 2).sum(0)
    return float((1 + np.sum(np.array(by_chance) >= q)) / (1 + len(by_chance)))
