"""Findings: all fits to the curves of a table, and comparisons of budgets."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import pandas as pd

from analysis.defaults import DRAWS, MARGIN
from analysis.fits.components import Components, fit_components
from analysis.fits.confound import Separation, separate
from analysis.fits.failures import Unprotected, count_unprotected
from analysis.fits.instability import InstabilityFit, Kind, deviations_of, fit_instability
from analysis.fits.intervals import holm
from analysis.fits.mean import MeanFit, fit_mean
from analysis.fits.together import Together, fit_together
from analysis.table.table import Curve, curves, rows_of
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

PROTECTED = ARM_NAMES[ArmName.UC]

_Fit = TypeVar("_Fit")


@dataclass(frozen=True)
class Finding:
    """One curve and its fits.

    Attributes:
        curve: measured curve.
        mean: fit of the mean accuracy; None if `problem` prevented it.
        seeds: fit of the standard deviation across seeds; None likewise.
        oscillation: fit of the oscillation within runs; None likewise.
        components: parts of the variance between targets; None if there are too few runs.
        unprotected: runs that left the images unprotected; None without clean images.
        problem: why a fit is missing, for the user; empty if none is.
    """

    curve: Curve
    mean: MeanFit | None
    seeds: InstabilityFit | None
    oscillation: InstabilityFit | None
    components: Components | None = None
    unprotected: Unprotected | None = None
    problem: str = ""

    def instability(self, kind: Kind) -> InstabilityFit | None:
        """Return the fit of one kind of instability."""
        return self.seeds if kind == "seeds" else self.oscillation


_Found = TypeVar("_Found", Finding, Together)


@dataclass(frozen=True)
class Findings:
    """All findings of a table.

    Attributes:
        findings: one for each curve, in the order of `table.curves`.
        separations: one for each pair of curves that differ only in their budget.
        together: what the main curves of several data sets that are alike in all else show
            together.
        problems: why a pair has no separation.
    """

    findings: tuple[Finding, ...]
    separations: tuple[Separation, ...] = ()
    together: tuple[Together, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def datasets(self) -> dict[str, list[Finding]]:
        """The findings of each data set; protected images come before other arms."""
        by_dataset: dict[str, list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda f: f.curve.arm != PROTECTED):
            by_dataset.setdefault(finding.curve.dataset, []).append(finding)
        return dict(sorted(by_dataset.items()))

    @property
    def main(self) -> list[Finding]:
        """The findings of protected images; for a data set without any, of its first arm."""
        datasets = self.datasets.values()
        return [f for same in datasets for f in same if f.curve.arm == same[0].curve.arm]

    @property
    def pairs(self) -> dict[str, list[tuple[Finding, Finding]]]:
        """The pairs at equal epochs and equal steps that have all else in common, by data set."""
        pairs: dict[str, list[tuple[Finding, Finding]]] = {}
        at_steps = {f.curve.key: f for f in self.findings if f.curve.budget == "steps"}
        for dataset, same in self.datasets.items():
            for finding in same:
                other = at_steps.get(replace(finding.curve, budget="steps").key)
                if other and finding.curve.budget == "epochs":
                    pairs.setdefault(dataset, []).append((finding, other))
        return pairs


def analyse(table: pd.DataFrame, *, draws: int = DRAWS, margin: float = MARGIN) -> Findings:
    """Fit every curve of a table; a fit that is impossible is reported as a problem.

    p-values are adjusted within each of five questions, over all curves (Holm, 1979): does B
    matter, does accuracy fall and rise, where are runs unstable, are more of them unprotected at
    larger or smaller B, and is it batch size or steps. Of several data sets together is asked where
    runs are unstable or unprotected, and whether accuracy and spread change alike.

    Args:
        table: with the columns of `columns.COLUMNS`.
        draws: number of draws of the noise of each curve.
        margin: difference in accuracy that does not matter.
    """
    found = list(curves(table))
    with progress("fitting", "curves", len(found)) as stage:
        fitted = [
            _fit_curve(curve, rows_of(curve, table), draws, margin) for curve in stage.track(found)
        ]
    findings = Findings(tuple(_adjust_findings(fitted)))
    problems: list[str] = []
    separations = [
        _attempt(partial(separate, epochs.curve, steps.curve, draws=draws), problems)
        for pairs in findings.pairs.values()
        for epochs, steps in pairs
    ]
    return replace(
        findings,
        separations=tuple(_adjust_separations(list(filter(None, separations)))),
        together=tuple(_adjust_together(list(_together(findings, draws, margin)))),
        problems=tuple(problems),
    )


def budgets(findings: Iterable[Finding]) -> list[str]:
    """Return the kinds of budget among findings, `epochs` first."""
    return sorted({finding.curve.budget for finding in findings})


def _fit_curve(curve: Curve, rows: pd.DataFrame, draws: int, margin: float) -> Finding:
    problems: list[str] = []
    batches, accuracy = curve.batches, curve.accuracy
    deviations = deviations_of(curve)
    mean = _attempt(partial(fit_mean, batches, accuracy, draws=draws, margin=margin), problems)
    return Finding(
        curve=curve,
        mean=mean,
        seeds=fit_instability("seeds", deviations["seeds"], draws=draws),
        oscillation=fit_instability("oscillation", deviations["oscillation"], draws=draws),
        components=_attempt(partial(fit_components, rows), []),
        unprotected=count_unprotected([curve], margin),
        problem="; ".join(dict.fromkeys(problems)),
    )


def _together(findings: Findings, draws: int, margin: float) -> Iterator[Together]:
    """Fit the main curves of several data sets that have all but images and settings in common.

    Those of a data set that has several such curves would count twice.
    """
    groups: dict[tuple[str, ...], list[Curve]] = {}
    for finding in findings.main:
        curve = finding.curve
        key = (curve.arm, curve.budget, curve.lr_rule, curve.scope)
        groups.setdefault(key, []).append(curve)
    for _, same in sorted(groups.items()):
        if 1 < len({curve.dataset for curve in same}) == len(same):
            one = fit_together(same, margin=margin, draws=draws)
            if one.says_something:
                yield one


def _adjust_findings(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Adjust the p-values of each question over all findings."""
    means = [finding.mean for finding in findings]
    effects = iter(holm([mean.flat_p for mean in means if mean]))
    valleys = iter(holm([mean.valley_p for mean in means if mean]))
    for finding in _adjust_runs(findings):
        mean = finding.mean
        if mean:
            mean = replace(mean, adjusted_p=next(effects), adjusted_valley_p=next(valleys))
        yield replace(finding, mean=mean)


def _adjust_runs(found: Sequence[_Found]) -> Iterator[_Found]:
    """Adjust the p-values of where runs are unstable, and of where they are unprotected."""
    fits = [fit for one in found for fit in (one.seeds, one.oscillation) if fit]
    unstable = iter(holm([p for fit in fits for p in (fit.both_ends_p, fit.trend_p)]))
    failures = [one.unprotected for one in found]
    trends = holm([one.trend_p if one else math.nan for one in failures])
    for one, unprotected, p in zip(found, failures, trends, strict=True):
        yield replace(
            one,
            seeds=_adjusted(one.seeds, unstable),
            oscillation=_adjusted(one.oscillation, unstable),
            unprotected=unprotected and replace(unprotected, adjusted_trend_p=p),
        )


def _adjusted(fit: InstabilityFit | None, p_values: Iterator[float]) -> InstabilityFit | None:
    """Give a fit the next two adjusted p-values, of both ends and of a trend."""
    if fit is None:
        return None
    both_ends_p, trend_p = next(p_values), next(p_values)
    return replace(fit, adjusted_both_ends_p=both_ends_p, adjusted_trend_p=trend_p)


def _adjust_separations(separations: Sequence[Separation]) -> Iterator[Separation]:
    """Adjust the p-values of batch size or steps over all pairs."""
    raw = [p for one in separations for p in (one.difference_p, one.batch_p, one.steps_p)]
    adjusted = iter(holm(raw))
    for one in separations:
        yield replace(one, adjusted=(next(adjusted), next(adjusted), next(adjusted)))


def _adjust_together(together: Sequence[Together]) -> Iterator[Together]:
    """Adjust the p-values of each question over all groups of data sets."""
    differ = holm([one.differ_p for one in together])
    spread = holm([one.spread.differ_p for one in together])
    for one, p, of_spread in zip(_adjust_runs(together), differ, spread, strict=True):
        own = replace(one.spread, adjusted_differ_p=of_spread)
        yield replace(one, spread=own, adjusted_differ_p=p)


def _attempt(fit: Callable[[], _Fit], problems: list[str]) -> _Fit | None:
    try:
        return fit()
    except UserError as error:
        problems.append(str(error))
        return None
