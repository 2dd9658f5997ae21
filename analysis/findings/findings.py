"""Findings: all fits to the curves of a table, and comparisons of budgets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import pandas as pd

from analysis.fits.components import Components, fit_components
from analysis.fits.confound import Separation, separate
from analysis.fits.instability import InstabilityFit, Kind, fit_instability
from analysis.fits.mean import MARGIN, MeanFit, fit_mean
from analysis.table.table import Curve, curves, rows_of
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES
from bigbatch_ue.runtime.errors import UserError

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
        problem: why a fit is missing, for the user; empty if none is.
    """

    curve: Curve
    mean: MeanFit | None
    seeds: InstabilityFit | None
    oscillation: InstabilityFit | None
    components: Components | None = None
    problem: str = ""

    def instability(self, kind: Kind) -> InstabilityFit | None:
        """Return the fit of one kind of instability."""
        return self.seeds if kind == "seeds" else self.oscillation


@dataclass(frozen=True)
class Findings:
    """All findings of a table.

    Attributes:
        findings: one for each curve, in the order of `table.curves`.
        separations: one for each pair of curves that differ only in their budget.
        problems: why a pair has no separation.
    """

    findings: tuple[Finding, ...]
    separations: tuple[Separation, ...] = ()
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


def analyse(table: pd.DataFrame, *, draws: int = 1000, margin: float = MARGIN) -> Findings:
    """Fit every curve of a table; a fit that is impossible is reported as a problem.

    Args:
        table: with the columns of `columns.COLUMNS`.
        draws: number of bootstrap draws.
        margin: difference in accuracy that does not matter.
    """
    findings = Findings(
        tuple(_fit_curve(curve, rows_of(curve, table), draws, margin) for curve in curves(table))
    )
    problems: list[str] = []
    separations = [
        _attempt(partial(separate, epochs.curve, steps.curve), problems)
        for pairs in findings.pairs.values()
        for epochs, steps in pairs
    ]
    done = tuple(filter(None, separations))
    return replace(findings, separations=done, problems=tuple(problems))


def budgets(findings: Iterable[Finding]) -> list[str]:
    """Return the kinds of budget among findings, `epochs` first."""
    return sorted({finding.curve.budget for finding in findings})


def _fit_curve(curve: Curve, rows: pd.DataFrame, draws: int, margin: float) -> Finding:
    problems: list[str] = []
    floor = 1 / (12 * max(curve.test_images, 1) ** 2)  # variance of rounding to whole images
    batches, accuracy, tail = curve.batches, curve.accuracy, curve.tail_epochs
    unstable = partial(fit_instability, batches, floor=floor, tail_epochs=tail)
    mean = _attempt(partial(fit_mean, batches, accuracy, draws=draws, margin=margin), problems)
    seeds = _attempt(partial(unstable, accuracy, "seeds"), problems)
    oscillation = _attempt(partial(unstable, curve.oscillation, "oscillation"), problems)
    components = _attempt(partial(fit_components, rows), [])
    problem = "; ".join(dict.fromkeys(problems))
    return Finding(curve, mean, seeds, oscillation, components, problem)


def _attempt(fit: Callable[[], _Fit], problems: list[str]) -> _Fit | None:
    try:
        return fit()
    except UserError as error:
        problems.append(str(error))
        return None
