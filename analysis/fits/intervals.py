"""The significance level of all fits, p-values of several tests, and intervals of ratios."""

from collections.abc import Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests

from analysis.table.table import Floats
from bigbatch_ue.reporting.statistics import CONFIDENCE

ALPHA = round(1 - CONFIDENCE, 9)
"""Significance level of every test, and what every interval leaves out."""

PERCENTILES = (100 * ALPHA / 2, 100 * (1 - ALPHA / 2))
"""Ends of a bootstrap interval."""


def fieller(
    numerator: float, denominator: float, covariance: Floats, quantile: float
) -> tuple[float, float]:
    """Return an interval of the ratio of two normal estimates (Fieller, 1954).

    It contains every r with (numerator - r denominator)^2 <= quantile^2 Var(numerator - r
    denominator). It is the whole line where the denominator cannot be told from zero.

    Args:
        numerator: its estimate.
        denominator: its estimate.
        covariance: float64 [2, 2], of the two estimates.
        quantile: > 0, two-sided quantile of Student's t or of the normal distribution.
    """
    square = quantile**2
    a = denominator**2 - square * covariance[1, 1]
    b = numerator * denominator - square * covariance[0, 1]
    c = numerator**2 - square * covariance[0, 0]
    if a <= 0:
        return -np.inf, np.inf
    half = np.sqrt(max(b**2 - a * c, 0.0))
    return float((b - half) / a), float((b + half) / a)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm, 1979); those that are unknown, NaN, do not count."""
    values = np.array(p_values, dtype=np.float64)
    known = np.isfinite(values)
    if known.any():
        values[known] = multipletests(values[known], method="holm")[1]
    return [float(value) for value in values]
