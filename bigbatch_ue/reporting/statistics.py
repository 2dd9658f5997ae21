"""Statistics that both report families share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

_LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """What numbers of `count` runs come to.

    Attributes:
        count: how many numbers.
        mean: of them.
        std: sample standard deviation (ddof 1); None of a single number.
        low: lower end of the mean's 95 % interval; None of a single number.
        high: upper end of it.
    """

    count: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation, and the mean's 95 % interval by t (Student, 1908).

    Raises:
        ValueError: there are no values.
    """
    count, mean = len(values), fmean(values)
    if count == 1:
        return Summary(count, mean, None, None, None)
    std = stdev(values)
    half = float(student.ppf((1 + _LEVEL) / 2, count - 1)) * std / math.sqrt(count)
    return Summary(count, mean, std, mean - half, mean + half)


def last_quarter(epochs: int) -> int:
    """Return the number of epochs in the last quarter of training, rounded up."""
    return math.ceil(epochs / 4)
