"""Sentences that compare the critical batch that gradient noise predicts with the best B."""

import math

from analysis.findings.findings import Finding, Findings
from analysis.findings.sentences import distinction
from analysis.fits.mean import MeanFit
from analysis.table.table import CriticalBatch
from bigbatch_ue.reporting.words import counted


def statements(findings: Findings) -> dict[str, str]:
    """Return a sentence for each data set with a prediction: the prediction, and the best B.

    The best B lies inside, below or above the middle 80 % of the predictions of its curve's runs.
    """
    clauses: dict[str, list[str]] = {}
    curves = [finding.curve for finding in findings.main]
    for finding in findings.main:
        curve, predicted = finding.curve, finding.curve.predicted
        if predicted:
            alike = [other for other in curves if other.dataset == curve.dataset]
            words = filter(None, (f" at equal {curve.budget}", distinction(curve, alike)))
            clause = f"{_prediction(predicted)}{', '.join(words)}{_comparison(predicted, finding)}"
            clauses.setdefault(curve.dataset, []).append(clause)
    return {
        dataset: f"{dataset}: gradient noise predicts a critical batch {'; '.join(own)}."
        for dataset, own in clauses.items()
    }


def span(critical: CriticalBatch) -> str:
    """Return a critical batch such as `1,200 (800 to 2,100)`; the value alone if runs agree."""
    value = _size(critical.value)
    return value if critical.low == critical.high else f"{value} ({_range(critical)})"


def _prediction(critical: CriticalBatch) -> str:
    unbounded = (
        f"the gradient cannot be told from its noise in {critical.unbounded} of "
        f"{counted(critical.runs, 'run')}"
    )
    if math.isinf(critical.low):
        return f"that is too large to be measured ({unbounded})"
    if math.isinf(critical.value):
        return f"of at least {_size(critical.low)} ({unbounded})"
    runs = counted(critical.runs, "run")
    return f"of {_size(critical.value)} (middle 80 % of {runs}: {_range(critical)})"


def _comparison(critical: CriticalBatch, finding: Finding) -> str:
    mean = finding.mean
    if math.isinf(critical.low):
        return ""
    if mean is None:
        return ", but no best B could be fitted"
    if mean.verdict != "effect":
        return ", but no effect of B on protection is shown"
    ends = " to ".join(f"{round(end):,}" for end in mean.interval)
    best = f"{round(mean.optimum):,} (95 % interval {ends})"
    return f", and the best B measured, {best}, {_position(critical, mean)}"


def _position(critical: CriticalBatch, mean: MeanFit) -> str:
    """Say where the best B lies, and whether its interval reaches into the predicted range."""
    if critical.low <= mean.optimum <= critical.high:
        return "lies inside that range"
    if mean.optimum < critical.low:
        side, reaches = "below", mean.interval[1] >= critical.low
    else:
        side, reaches = "above", mean.interval[0] <= critical.high
    return f"lies {side} it{', though its interval reaches there' if reaches else ''}"


def _range(critical: CriticalBatch) -> str:
    return f"{_size(critical.low)} to {_size(critical.high)}"


def _size(size: float) -> str:
    return f"{round(size):,}" if math.isfinite(size) else "unbounded"
