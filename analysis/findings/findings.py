"""All that is known of the curves of a table, in numbers, files and plain sentences."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.fits.confound import Separation, separate
from analysis.fits.instability import InstabilityFit, Kind, fit_instability
from analysis.fits.mean import MeanFit, fit_mean
from analysis.table.table import (
    CRITICAL_COLUMNS,
    CURVE_COLUMNS,
    CriticalBatch,
    Curve,
    critical_batch_of,
    curves,
)
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.reporting.statistics import half_width
from bigbatch_ue.reporting.words import p_value
from bigbatch_ue.runtime.errors import UserError

Result = TypeVar("Result")

FINDINGS = "findings.json"
FITS = "fits.csv"
PROTECTED = ARM_NAMES[ArmName.UC]
KINDS: dict[Kind, str] = {"seeds": "std across seeds", "oscillation": "oscillation within a run"}
SHAPES = {
    "both ends": "unstable at both ends",
    "small batches": "unstable at small batches",
    "large batches": "unstable at large batches",
    "even": "even",
    "inconclusive": "no clear pattern",
}
_EDGE = 1.01


@dataclass(frozen=True)
class Finding:
    """All that is known of one curve.

    Attributes:
        curve: what was measured.
        mean: fit of the mean accuracy; None where `problem` prevented it.
        seeds: fit of the standard deviation across seeds; None likewise.
        oscillation: fit of the oscillation within runs; None likewise.
        problem: why a fit is missing, for the user; empty if none is.
    """

    curve: Curve
    mean: MeanFit | None
    seeds: InstabilityFit | None
    oscillation: InstabilityFit | None
    problem: str = ""

    def instability(self, kind: Kind) -> InstabilityFit | None:
        """The fit of one kind."""
        return self.seeds if kind == "seeds" else self.oscillation


@dataclass(frozen=True)
class Findings:
    """All that is known of a table.

    Attributes:
        findings: one for each curve, in the order of `table.curves`.
        separations: one for each pair of curves that differ in their budget only.
        problems: why a pair has no separation.
    """

    findings: tuple[Finding, ...]
    separations: tuple[Separation, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def datasets(self) -> dict[str, list[Finding]]:
        """The findings of each data set; protected images come before other arms."""
        groups: dict[str, list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda f: f.curve.arm != PROTECTED):
            groups.setdefault(finding.curve.dataset, []).append(finding)
        return dict(sorted(groups.items()))

    @property
    def main(self) -> list[Finding]:
        """Of each data set the curves of protected images, or else of the first arm there is."""
        groups = self.datasets.values()
        return [f for same in groups for f in same if f.curve.arm == same[0].curve.arm]

    @property
    def pairs(self) -> dict[str, list[tuple[Finding, Finding]]]:
        """Of each data set, those at equal epochs and at equal steps that are alike in all else."""
        groups: dict[str, list[tuple[Finding, Finding]]] = {}
        steps = {f.curve.key: f for f in self.findings if f.curve.budget == "steps"}
        for dataset, same in self.datasets.items():
            for finding in same:
                other = steps.get(replace(finding.curve, budget="steps").key)
                if other and finding.curve.budget == "epochs":
                    groups.setdefault(dataset, []).append((finding, other))
        return groups


@dataclass(frozen=True)
class SizeSummary:
    """What the runs of one curve at one effective batch have in common; NaN if it is not known.

    Attributes:
        batch: effective batch.
        steps: optimizer steps of the generators.
        count: runs that count.
        failed: runs that failed.
        mean: accuracy, mean of the runs.
        low: lower end of its 95 % t interval (Student, 1908), as far as it is possible.
        high: upper end.
        std: standard deviation across seeds.
        oscillation: within a run.
        images_per_second: of the generators' training, mean.
        memory: peak in MiB, the largest.
        critical: critical batch that the gradient noise of these runs predicts; None likewise.
    """

    batch: int
    steps: int
    count: int
    failed: int
    mean: float
    low: float
    high: float
    std: float
    oscillation: float
    images_per_second: float
    memory: float
    critical: CriticalBatch | None


def analyse(table: pd.DataFrame, *, draws: int = 1000, margin: float = 0.02) -> Findings:
    """Fit every curve of a table; what cannot be fitted is told of in `problem`.

    Args:
        table: with the columns of `table.COLUMNS`.
        draws: bootstrap draws.
        margin: accuracies this close to the best are as good.
    """
    findings = Findings(tuple(_find(curve, draws, margin) for curve in curves(table)))
    problems: list[str] = []
    separations = [
        _attempt(problems, partial(separate, epochs.curve, steps.curve))
        for found in findings.pairs.values()
        for epochs, steps in found
    ]
    done = tuple(filter(None, separations))
    return replace(findings, separations=done, problems=tuple(problems))


def sizes(finding: Finding, table: pd.DataFrame | None = None) -> list[SizeSummary]:
    """A curve size by size; speed and memory come from the `table` of its runs."""
    curve, nothing = finding.curve, np.full(len(finding.curve.batches), np.nan)
    speed = memory = pd.Series(dtype=float)
    if table is not None:
        mine = (table[list(CURVE_COLUMNS)] == list(curve.key)).all(axis=1)
        by_size = table[mine].groupby("effective_batch")
        speed, memory = by_size["images_per_second"].mean(), by_size["peak_memory_mib"].max()
    found = []
    for row, batch in enumerate(curve.batches.tolist()):
        accuracy = curve.accuracy[row][np.isfinite(curve.accuracy[row])]
        fits = [finding.instability(kind) for kind in KINDS]
        std, oscillation = (float((fit.std if fit else nothing)[row]) for fit in fits)
        found.append(
            SizeSummary(
                batch=batch,
                steps=int(curve.steps[row]),
                count=len(accuracy),
                failed=int(curve.failed[row]),
                **dict(zip(("mean", "low", "high"), _student(accuracy), strict=True)),
                std=std,
                oscillation=oscillation,
                images_per_second=float(speed.get(batch, math.nan)),
                memory=float(memory.get(batch, math.nan)),
                critical=critical_batch_of(curve.critical[row]),
            )
        )
    return found


def manner(curve: Curve, among: Sequence[Curve], *, arm: bool = True) -> str:
    """What tells a curve from `among` but for data set and budget, in words; may be empty."""
    words = {
        "arm": curve.arm,
        "lr_rule": f"{'unscaled' if curve.lr_rule == 'none' else curve.lr_rule} learning rate",
        "scope": f"batches of the {'cluster' if curve.scope == 'cluster' else 'whole set'}",
        "settings": f"settings {curve.settings[:8]}",
    }
    differ = [name for name in words if len({getattr(other, name) for other in among}) > 1]
    return ", ".join(words[name] for name in differ if arm or name != "arm")


def label(curve: Curve, among: Sequence[Curve]) -> str:
    """Data set, and what tells the curve from others of it among `among` but for the budget."""
    alike = [other for other in among if other.dataset == curve.dataset]
    return ", ".join(filter(None, (curve.dataset, manner(curve, alike))))


def budgets(shown: Iterable[Finding]) -> list[str]:
    """The kinds of budget among findings, `epochs` first."""
    return sorted({finding.curve.budget for finding in shown})


def recommendation(finding: Finding) -> str:
    """Which B protects this data set best, and how sure that is, in plain words."""
    return " ".join(filter(None, (_advice(finding), _failures(finding.curve))))


def write_findings(findings: Findings, folder: Path) -> None:
    """Write `findings.json`, all that is known, and `fits.csv`, a row for every family fitted."""
    content = _plain(findings)
    for record, finding in zip(content["findings"], findings.findings, strict=True):
        record["title"] = finding.curve.title
        record["critical"] = _plain(finding.curve.predicted)
        record["recommendation"] = recommendation(finding)
    write_json(folder / FINDINGS, content)
    with atomic_file(folder / FITS) as temporary:
        pd.DataFrame(_fit_rows(findings)).to_csv(temporary, index=False)


def _find(curve: Curve, draws: int, margin: float) -> Finding:
    problems: list[str] = []
    floor = 1 / (12 * max(curve.test_images, 1) ** 2)
    batches, accuracy, tail = curve.batches, curve.accuracy, curve.tail_epochs
    unstable = partial(fit_instability, batches, floor=floor, tail_epochs=tail)
    mean = _attempt(problems, partial(fit_mean, batches, accuracy, draws=draws, margin=margin))
    seeds = _attempt(problems, partial(unstable, accuracy, "seeds"))
    oscillation = _attempt(problems, partial(unstable, curve.oscillation, "oscillation"))
    return Finding(curve, mean, seeds, oscillation, "; ".join(dict.fromkeys(problems)))


def _attempt(problems: list[str], fit: Callable[[], Result]) -> Result | None:
    try:
        return fit()
    except UserError as error:
        problems.append(str(error))
        return None


def _student(values: Sequence[float]) -> tuple[float, float, float]:
    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < 2:
        return mean, math.nan, math.nan
    half = half_width(float(np.std(values, ddof=1)), count)
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def _advice(finding: Finding) -> str:
    curve, mean = finding.curve, finding.mean
    where = curve.title.replace(f", {PROTECTED}:", ":", 1).replace(": equal", " at equal", 1)
    if mean is None:
        return f"{where}: no recommendation ({finding.problem})."
    reached = f"{_percent(mean.best)} % {_bracket(mean.best_interval)} of clean test images"
    instead = "" if math.isnan(curve.clean) else f" instead of {_percent(curve.clean)} %"
    if mean.best_interval[1] >= curve.clean - mean.margin:
        return (
            f"{where}: not protected at any batch size tried: at best a network still reaches "
            f"{reached}{instead}."
        )
    noise = ""
    if mean.best_interval[1] >= curve.noise - mean.margin:
        noise = f" Random noise alone does as much ({_percent(curve.noise)} %)."
    if mean.optimum is None or mean.interval is None:
        return (
            f"{where}: no effect of B is shown ({p_value(mean.flat_p)}): take whatever is fastest; "
            f"a network reaches {reached}{instead}.{noise}"
        )
    return (
        f"{where}: {_train_with(mean, curve)}; a network then reaches {reached}{instead}. "
        f"{_plateau(mean)}{noise}"
    )


def _train_with(mean: MeanFit, curve: Curve) -> str:
    assert mean.optimum is not None
    assert mean.interval is not None
    best, ends = round(mean.optimum), " to ".join(f"{round(end):,}" for end in mean.interval)
    sure = f"(95 % interval {ends})"
    smallest, largest = int(curve.batches[0]), int(curve.batches[-1])
    if mean.verdict == "at least":
        improves = mean.optimum * _EDGE >= largest
        why = "protection still improves at" if improves else "it is as good from there to"
        return f"train with B of at least {best:,} {sure}: {why} the largest batch tried"
    if mean.verdict == "at most":
        improves = mean.optimum <= smallest * _EDGE
        why = "protection still improves at" if improves else "it is as good from there to"
        return f"train with B of at most {best:,} {sure}: {why} the smallest batch tried"
    return f"train with B = {best:,} {sure}"


def _plateau(mean: MeanFit) -> str:
    low, high = mean.plateau
    points = f"within {100 * mean.margin:g} points"
    if low == high:
        return f"Of the sizes tried, only {low:,} is {points} of that."
    return f"Anything from {low:,} to {high:,} is {points}."


def _failures(curve: Curve) -> str:
    failed = int(curve.failed.sum())
    if not failed:
        return ""
    runs = failed + int(np.isfinite(curve.accuracy).sum())
    where = ", ".join(
        f"{count} at B = {batch:,}"
        for batch, count in zip(curve.batches.tolist(), curve.failed.tolist(), strict=True)
        if count
    )
    return f"{failed} of {runs} runs failed ({where})."


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _bracket(interval: tuple[float, float]) -> str:
    return f"[{', '.join(map(_percent, interval))}]"


def _fit_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    for finding in findings.findings:
        predicted = finding.curve.predicted
        ends = (predicted.value, predicted.low, predicted.high) if predicted else ()
        for family in finding.mean.families if finding.mean else ():
            yield {
                **dict(zip(CURVE_COLUMNS, finding.curve.key, strict=True)),
                "family": family.name,
                "aicc": family.aicc,
                "weight": family.weight,
                **family.parameters,
                **{f"{name}_error": error for name, error in family.errors.items()},
                **dict(zip(CRITICAL_COLUMNS, ends, strict=False)),
            }


def _plain(value: Any) -> Any:
    """`value` in JSON's types; numbers that JSON lacks are None."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
