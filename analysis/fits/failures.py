"""Runs that leave the images unprotected: how often, by B."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from analysis.table.table import Floats
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
        sizes: at each of the k sizes.
        total: at all of them.
    """

    sizes: tuple[Rate, ...]
    total: Rate


def count_unprotected(accuracy: Floats, clean: float, margin: float) -> Unprotected | None:
    """Count the runs that leave images unprotected; None if the accuracy on clean ones is unknown.

    Args:
        accuracy: float64 [k, n], NaN where a run is missing.
        clean: accuracy of networks trained on clean images.
        margin: difference in accuracy that does not matter.
    """
    if not np.isfinite(clean):
        return None
    known = np.isfinite(accuracy).sum(1)
    counts = np.sum(np.nan_to_num(accuracy, nan=-1.0) >= clean - margin, axis=1)
    sizes = tuple(_rate(*pair) for pair in zip(counts.tolist(), known.tolist(), strict=True))
    return Unprotected(sizes, _rate(int(counts.sum()), int(known.sum())))


def _rate(count: int, runs: int) -> Rate:
    if not runs:
        return Rate(0, 0, 0.0, 1.0)
    ends = binomtest(count, runs).proportion_ci(CONFIDENCE, "exact")
    return Rate(count, runs, float(ends.low), float(ends.high))
