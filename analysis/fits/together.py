"""Data sets together: instability pooled over them, and whether B acts alike in all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.oneway import anova_oneway

from analysis.defaults import DRAWS, MARGIN
from analysis.fits.confound import line_changes
from analysis.fits.failures import Unprotected, count_unprotected
from analysis.fits.instability import (
    Deviations,
    InstabilityFit,
    Kind,
    deviations_of,
    fit_instability,
    pool,
)
from analysis.fits.spread_changes import MIN_SETS, SpreadChanges, compare_spread
from analysis.table.table import Curve, Floats

_MIN_SEEDS = 2


@dataclass(frozen=True)
class Together:
    """What the curves of several data sets show together. They have all else in common.

    Attributes:
        arm: arm of the curves.
        budget: `epochs` or `steps`.
        lr_rule: `none`, `sqrt` or `linear`.
        scope: `cluster` or `all`.
        datasets: names of the data sets.
        seeds: fit of the standard deviation across seeds, pooled over the data sets that measured
            it; None if fewer than two did, or at too few sizes.
        spread: how the standard deviation across seeds changes in each, and whether alike.
        oscillation: fit of the oscillation within runs, likewise.
        unprotected: runs of all data sets that left the images unprotected; None if it is unknown
            for one of them.
        changes: change of accuracy in each data set from its smallest to its largest B, along each
            seed's straight line; mean over seeds, NaN if fewer than two seeds have enough sizes.
        differ_p: p-value of the claim that these changes differ, of those that are known; NaN if it
            cannot be tested.
        adjusted_differ_p: `differ_p`, adjusted for the same claim about other curves of a report.
    """

    arm: str
    budget: str
    lr_rule: str
    scope: str
    datasets: tuple[str, ...]
    seeds: InstabilityFit | None
    oscillation: InstabilityFit | None
    spread: SpreadChanges
    unprotected: Unprotected | None
    changes: tuple[float, ...]
    differ_p: float
    adjusted_differ_p: float

    @property
    def says_something(self) -> bool:
        """Whether anything could be tested."""
        trend_p = self.unprotected.trend_p if self.unprotected else math.nan
        is_compared = np.isfinite([trend_p, self.differ_p, self.spread.differ_p]).any()
        return bool(is_compared or self.seeds or self.oscillation)

    def instability(self, kind: Kind) -> InstabilityFit | None:
        """Return the fit of one kind of instability."""
        return self.seeds if kind == "seeds" else self.oscillation


def fit_together(
    curves: Sequence[Curve], *, margin: float = MARGIN, draws: int = DRAWS
) -> Together:
    """Pool the instability of several data sets, and test whether B acts alike in all.

    Args:
        curves: one for each data set, alike in all else.
        margin: difference in accuracy that does not matter.
        draws: number of draws of the pooled curves.
    """
    deviations = list(map(deviations_of, curves))
    changes = list(map(_changes, curves))
    known = [one for one in changes if len(one) >= _MIN_SEEDS]
    p = _differ_p(known) if len(known) >= MIN_SETS else math.nan
    first = curves[0]
    return Together(
        arm=first.arm,
        budget=first.budget,
        lr_rule=first.lr_rule,
        scope=first.scope,
        datasets=tuple(curve.dataset for curve in curves),
        seeds=_fit_pooled("seeds", deviations, draws),
        oscillation=_fit_pooled("oscillation", deviations, draws),
        spread=compare_spread(curves),
        unprotected=count_unprotected(curves, margin),
        changes=tuple(float(one.mean()) if len(one) >= _MIN_SEEDS else math.nan for one in changes),
        differ_p=p,
        adjusted_differ_p=p,
    )


def _fit_pooled(
    kind: Kind, deviations: Sequence[Mapping[Kind, Deviations]], draws: int
) -> InstabilityFit | None:
    measured = [own for one in deviations if (own := one[kind]).unit > 0 and own.can_be_tested]
    if len(measured) < MIN_SETS:
        return None
    fit = fit_instability(kind, pool(measured), draws=draws)
    return fit if math.isfinite(fit.change) else None


def _changes(curve: Curve) -> Floats:
    """Return the change of each seed over the sizes that have a run."""
    ran = np.isfinite(curve.accuracy).any(axis=1)
    return line_changes(np.log2(curve.batches[ran].astype(float)), curve.accuracy[ran])


def _differ_p(changes: Sequence[Floats]) -> float:
    """Return the p-value of Welch's analysis of variance (1951), for unequal variances."""
    if not all(map(np.ptp, changes)):
        return math.nan
    return float(anova_oneway(changes, use_var="unequal").pvalue)
