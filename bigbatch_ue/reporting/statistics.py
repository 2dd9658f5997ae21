"""Means of seeds with Student's intervals, and the last quarter of the epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

CONFIDENCE = 0.95
"""Level of every interval that the reports show."""


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one number of several runs.

    Attributes:
        count: number of runs.
        mean: arithmetic mean.
        std: sample standard deviation (ddof 1); None for a single run.
        low: lower end of the 95 % interval of the mean; None for a single run.
        high: upper end; None for a single run.
    """

    count: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Return the mean of `values`, their standard deviation and the interval of the mean.

    Raises:
        ValueError: `values` is empty.
    """
    count, mean = len(values), fmean(values)
    if count == 1:
        return Summary(count, mean, None, None, None)
    std = stdev(values)
    half = half_width(std, count)
    return Summary(count, mean, std, mean - half, mean + half)


def half_width(std: float, count: int) -> float:
    """Return half the width of the 95 % t interval of a mean (Student, 1908).

    Args:
        std: sample standard deviation (ddof 1) of the values.
        count: number of values, at least 2.
    """
    return float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / math.sqrt(count)


def last_quarter(epochs: int) -> int:
    """Return the number of epochs in the last quarter of training, rounded up."""
    return math.ceil(epochs / 4)
