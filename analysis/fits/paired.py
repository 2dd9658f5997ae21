"""Means over runs and target seeds with their intervals, and paired differences of them."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from bigbatch_ue.reporting.statistics import CONFIDENCE, Summary, summarise

Values = Mapping[tuple[Hashable | None, int], float]
"""A number of each network, by run (None: of no run) and seed of the target."""

Limits = tuple[float, float, float]
"""An estimate, and the ends of its interval."""

Basis = Literal["runs", "target seeds", "test images", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: mean over the units.
        low: lower end; None if unknown.
        high: upper end; None if unknown.
        count: number of units.
        basis: what the interval is about. Of `runs` and `target seeds`: Student's interval of the
            mean over them. Of `test images`: one network, as other images would have judged it.
        p: two-sided p-value of a mean of 0 (Student's t); NaN unless it is over units.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    basis: Basis
    p: float = math.nan


def estimate(values: Values, single: tuple[float, float] | None = None) -> Estimate:
    """Return the mean with an interval over runs, or over target seeds, whichever is wider.

    Networks of one run share its perturbations, and those of one seed their initial weights, so
    that neither kind may be counted as independent where the other one varies.

    Args:
        values: at least one.
        single: interval to take where all values are of one run and one seed.
    """
    bases: tuple[Basis, Basis] = ("runs", "target seeds")
    found = {base: _over(values, part) for part, base in enumerate(bases)}
    widths = {
        b: s.high - s.low
        for b, s in found.items()
        if s and s.high is not None and s.low is not None
    }
    if not widths:
        low, high = single or (None, None)
        return Estimate(fmean(values.values()), low, high, 1, "test images" if single else "none")
    basis = max(widths, key=lambda base: round(widths[base], 12))
    summary = found[basis]
    assert summary is not None
    return Estimate(
        summary.mean, summary.low, summary.high, summary.count, basis, _p_of_zero(summary)
    )


def paired(ones: Values, others: Values) -> dict[tuple[Hashable | None, int], float]:
    """Subtract `others` from `ones`: of the same run and seed, or else the mean at that seed."""
    if all(run is None for run, _ in ones) and any(run is not None for run, _ in others):
        return {key: -value for key, value in paired(others, ones).items()}
    differences = {}
    for (run, seed), value in ones.items():
        same = [other for (_, at), other in others.items() if at == seed]
        if same:
            differences[run, seed] = value - others.get((run, seed), fmean(same))
    return differences


def proportion(share: float, count: int) -> Limits:
    """Return a share of `count` test images with its interval (Wilson, 1927)."""
    low, high = proportion_confint(share * count, count, alpha=1 - CONFIDENCE, method="wilson")
    return share, max(float(low), 0.0), min(float(high), 1.0)


def combined(parts: Sequence[Limits], weights: Sequence[float]) -> Limits:
    """Return a weighted sum of independent estimates with its interval (Zou and Donner, 2008)."""
    total, below, above = 0.0, 0.0, 0.0
    for (value, low, high), weight in zip(parts, weights, strict=True):
        ends = sorted((weight * low, weight * high))
        total += weight * value
        below += (weight * value - ends[0]) ** 2
        above += (ends[1] - weight * value) ** 2
    return total, total - math.sqrt(below), total + math.sqrt(above)


def _over(values: Values, part: int) -> Summary | None:
    """Summarise the means of the runs (`part` 0) or of the seeds (1); None if there is only one."""
    units: dict[Hashable, list[float]] = {}
    for key, value in values.items():
        units.setdefault(key[part], []).append(value)
    return summarise([fmean(same) for same in units.values()]) if len(units) > 1 else None


def _p_of_zero(summary: Summary) -> float:
    assert summary.std is not None
    error = summary.std / math.sqrt(summary.count)
    if error < 1e-12:
        return float(abs(summary.mean) < 1e-12)
    return float(2 * student.sf(abs(summary.mean) / error, summary.count - 1))
