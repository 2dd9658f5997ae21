"""Tests of the shape of a curve from the means at its sizes, and draws of their errors.

No test divides by a standard deviation of the same runs: the errors are drawn for these very runs,
so that a claim holds given their spread, whatever the spread of other seeds would be.
"""

from functools import cached_property

import numpy as np

from analysis.fits.intervals import ALPHA
from analysis.fits.runs import Runs
from analysis.table.table import Floats

_DEGREES = (1, 2, 4)
"""Degrees up to which polynomials are summed: a slope, one valley, two valleys."""
_POWER = 0.8
_PERMUTATIONS = 9999


class SmoothTest:
    """The adaptive smooth test of a curve against a flat one (Neyman, 1937; Fan, 1996).

    Coefficients of orthogonal polynomials in x, in units of their errors, are squared and summed up
    to each of `_DEGREES`. The smallest of the p-values of these sums is the statistic.

    Args:
        x: float64 [k], sizes as log2 B.
        errors: float64 [d, k], draws of the errors of the means.
    """

    def __init__(self, x: Floats, errors: Floats) -> None:
        z = 2 * (x - x[0]) / np.ptp(x) - 1
        self._basis = np.linalg.qr(np.vander(z, len(z), increasing=True))[0][:, 1:]
        self._degrees = sorted({min(degree, len(x) - 1) for degree in _DEGREES})
        coefficients = errors @ self._basis
        self._unit = np.quantile(np.abs(coefficients), 0.6827, axis=0)
        self._sums = np.sort(self._sum(errors), axis=0)
        self._smallest = np.sort(self._smallest_p(errors))
        self._line, self._errors = (z + 1) / 2, errors

    def p(self, means: Floats) -> Floats:
        """Return the p-values [m] of curves whose means are float64 [m, k]."""
        smallest = self._smallest_p(means)
        below = np.searchsorted(self._smallest, smallest, side="right")
        values: Floats = (1 + below) / (1 + len(self._smallest))
        return values

    @cached_property
    def detectable(self) -> float:
        """Change along a straight line that this test finds with 80 % power."""
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            found = np.mean(self.p(middle * self._line + self._errors) < ALPHA)
            low, high = (low, middle) if found >= _POWER else (middle, high)
        return high

    def _sum(self, means: Floats) -> Floats:
        """Return the sums of squares up to each degree, float64 [m, degrees]."""
        squares = (means @ self._basis / self._unit) ** 2
        return np.stack([squares[:, :degree].sum(1) for degree in self._degrees], 1)

    def _smallest_p(self, means: Floats) -> Floats:
        count = len(self._sums)
        p = [
            1 - np.searchsorted(null, one * (1 - 1e-9)) / count
            for null, one in zip(self._sums.T, self._sum(means).T, strict=True)
        ]
        smallest: Floats = np.min(p, axis=0)
        return smallest


def shuffle_in_seeds(runs: Runs, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the mean at each size [k], and errors [d, k] that it has by chance.

    Runs change places within their seed; those of seeds that occur once, among themselves.
    """
    average = runs.at_size / runs.at_size.sum(1, keepdims=True)
    means: Floats = average @ runs.values
    errors: Floats = shuffled_values(runs, random) @ average.T - means.mean()
    return means, errors


def shuffled_values(runs: Runs, random: np.random.Generator) -> Floats:
    """Return the values of the runs after they have changed places, float64 [d, N]."""
    order = np.argsort(runs.block + random.random((_PERMUTATIONS, len(runs.block))), axis=1)
    shuffled: Floats = np.empty((_PERMUTATIONS, len(runs.block)))
    shuffled[:, np.argsort(runs.block, kind="stable")] = runs.values[order]
    return shuffled


def trend(x: Floats, means: Floats, errors: Floats) -> tuple[float, float]:
    """Return the slope of the least-squares line per doubling of B, and its two-sided p-value."""
    line = _line(x)
    slope, null = float(line @ means), np.abs(errors @ line)
    return slope, _p(null, abs(slope))


def valley_p(x: Floats, means: Floats, errors: Floats) -> float:
    """Return the p-value of the claim that a curve falls and then rises.

    Two lines that meet at a size must have slopes of opposite sign (Simonsohn, 2018): the p-value
    is the larger of two one-sided ones. The size is that at which the weaker slope is clearest, and
    each one-sided test allows for that choice.
    """
    falls, rises = [], []
    for size in range(1, len(x) - 1):
        left, right = np.zeros((2, len(x)))
        left[: size + 1], right[size:] = -_line(x[: size + 1]), _line(x[size:])
        falls.append(left)
        rises.append(right)
    sides = [np.array(side) for side in (falls, rises)]
    units = [np.quantile(np.abs(errors @ side.T), 0.6827, axis=0) for side in sides]
    clearest = np.min(
        [side @ means / unit for side, unit in zip(sides, units, strict=True)], axis=0
    )
    strongest = float(clearest.max())
    return max(
        _p((errors @ side.T / unit).max(1), strongest)
        for side, unit in zip(sides, units, strict=True)
    )


def _line(x: Floats) -> Floats:
    """Return the weights [k] of the means in the slope of the least-squares line."""
    centred = x - x.mean()
    weights: Floats = centred / (centred @ centred)
    return weights


def _p(null: Floats, value: float) -> float:
    """Return the p-value of a statistic, which is small where few of the null are as large."""
    return float(1 + np.sum(null >= value - 1e-12)) / (1 + len(null))
