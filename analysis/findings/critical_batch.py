"""The critical batch that gradient noise predicts, beside the best one measured, in words."""

import math

from analysis.findings.findings import Finding, Findings, manner
from analysis.fits.mean import MeanFit
from analysis.table.table import CriticalBatch, Curve


def statements(findings: Findings) -> dict[str, str]:
    """For each data set where it was measured, a sentence: the prediction, and where the best B is.

    It lies inside, below or above the middle 80 % of what the runs of its curve predict.
    """
    said: dict[str, list[str]] = {}
    curves = [finding.curve for finding in findings.main]
    for finding in findings.main:
        curve, predicted = finding.curve, finding.curve.predicted
        if predicted:
            alike = [other for other in curves if other.dataset == curve.dataset]
            where = ", ".join(filter(None, (f" at equal {curve.budget}", manner(curve, alike))))
            clause = f"{_amount(predicted)}{where}{_compared(predicted, finding)}"
            said.setdefault(curve.dataset, []).append(clause)
    return {
        dataset: f"{dataset}: gradient noise predicts a critical batch {'; '.join(clauses)}."
        for dataset, clauses in said.items()
    }


def span(critical: CriticalBatch) -> str:
    """Such as `1,200 (800 to 2,100)`; where runs agree, their value alone."""
    value = _size(critical.value)
    return value if critical.low == critical.high else f"{value} ({_range(critical)})"


def _amount(critical: CriticalBatch) -> str:
    lost = f"in {critical.unbounded} of {critical.runs} runs the gradient is lost in its noise"
    if math.isinf(critical.low):
        return f"beyond what can be told ({lost})"
    if math.isinf(critical.value):
        return f"of at least {_size(critical.low)} ({lost})"
    return f"of {_size(critical.value)} (middle 80 % of {critical.runs} runs: {_range(critical)})"


def _compared(critical: CriticalBatch, finding: Finding) -> str:
    mean = finding.mean
    if math.isinf(critical.low):
        return ""
    if mean is None:
        return ", but no best B could be fitted"
    if mean.optimum is None or mean.interval is None:
        return ", but no effect of B on protection is shown"
    ends = " to ".join(f"{round(end):,}" for end in mean.interval)
    best = f"{round(mean.optimum):,} (95 % interval {ends})"
    sign = {"at least": "at least ", "at most": "at most "}.get(mean.verdict, "")
    return f", and the best B measured, {sign}{best}, {_place(critical, mean, finding.curve)}"


def _place(critical: CriticalBatch, mean: MeanFit, curve: Curve) -> str:
    """Where the best B lies; what the sizes tried or its interval leave open is said.

    Of a verdict `at least` or `at most`, all sizes from there on are as good.
    """
    assert mean.optimum is not None
    assert mean.interval is not None
    if critical.low <= mean.optimum <= critical.high:
        return "lies inside that range"
    below = mean.optimum < critical.low
    place, onwards = ("below", "at least") if below else ("above", "at most")
    last = curve.batches[-1 if below else 0]
    end = mean.interval[1 if below else 0]
    reaches = [reach >= critical.low if below else reach <= critical.high for reach in (last, end)]
    if mean.verdict == onwards:
        return "reaches into that range" if reaches[0] else f"lies {place} it as far as was tried"
    return f"lies {place} it{', though its interval reaches there' if reaches[1] else ''}"


def _range(critical: CriticalBatch) -> str:
    return f"{_size(critical.low)} to {_size(critical.high)}"


def _size(size: float) -> str:
    return f"{round(size):,}" if math.isfinite(size) else "unbounded"
