"""Findings in plain sentences: the recommendation, and what distinguishes curves."""

import math
from collections.abc import Sequence

import numpy as np

from analysis.findings.findings import PROTECTED, Finding
from analysis.fits.instability import Kind, Shape
from analysis.fits.mean import MeanFit
from analysis.table.table import Curve
from bigbatch_ue.reporting.words import counted, interval, p_value, percent

KINDS: dict[Kind, str] = {"seeds": "std across seeds", "oscillation": "oscillation within a run"}
SHAPES: dict[Shape, str] = {
    "both ends": "unstable at both ends",
    "small batches": "unstable at small batches",
    "large batches": "unstable at large batches",
    "even": "even",
    "inconclusive": "no clear pattern",
}
_EDGE = 1.01
"""Factor within which a best B is at the edge of the sizes tried."""


def recommendation(finding: Finding) -> str:
    """Say which B protects a data set best, and how certain that is."""
    return " ".join(filter(None, (_advice(finding), _failures(finding.curve))))


def distinction(curve: Curve, among: Sequence[Curve], *, arm: bool = True) -> str:
    """Say how a curve differs from others, except in data set and budget; may be empty.

    Args:
        curve: one of `among`.
        among: curves to distinguish.
        arm: whether a different arm is said, too.
    """
    words = {
        "arm": curve.arm,
        "lr_rule": f"{'unscaled' if curve.lr_rule == 'none' else curve.lr_rule} learning rate",
        "scope": f"batches of the {'cluster' if curve.scope == 'cluster' else 'whole set'}",
        "settings": f"settings {curve.settings[:8]}",
    }
    differ = [name for name in words if len({getattr(other, name) for other in among}) > 1]
    return ", ".join(words[name] for name in differ if arm or name != "arm")


def label(curve: Curve, among: Sequence[Curve]) -> str:
    """Return the data set, and the distinction from other curves of it in `among`."""
    alike = [other for other in among if other.dataset == curve.dataset]
    return ", ".join(filter(None, (curve.dataset, distinction(curve, alike))))


def _advice(finding: Finding) -> str:
    curve, mean = finding.curve, finding.mean
    where = curve.title.replace(f", {PROTECTED}:", ":", 1).replace(": equal", " at equal", 1)
    if mean is None:
        return f"{where}: no recommendation ({finding.problem})."
    instead = "" if math.isnan(curve.clean) else f", instead of {percent(curve.clean, 0)} %"
    ends = interval(*mean.best_interval, 0, between=", ")
    reached = f"{percent(mean.best, 0)} % [{ends}] of clean test images{instead}"
    if mean.best_interval[1] >= curve.clean - mean.margin:
        is_shown = mean.best_interval[0] >= curve.clean - mean.margin
        verdict = "not protected" if is_shown else "protection is not shown"
        return (
            f"{where}: {verdict} at any batch size tried. At best, a network still recognises "
            f"{reached}."
        )
    noise = ""
    if mean.best_interval[1] >= curve.noise - mean.margin:
        noise = f" Random noise alone protects as well ({percent(curve.noise, 0)} %)."
    if mean.optimum is None:
        return f"{where}: {_without_effect(mean)}. A network then recognises {reached}.{noise}"
    return (
        f"{where}: {_best_batch(mean, curve)}. A network then recognises {reached}. "
        f"{_plateau(mean)}{noise}"
    )


def _without_effect(mean: MeanFit) -> str:
    if mean.verdict == "equivalent":
        points = f"{100 * mean.margin:g} points"
        return f"the sizes tried differ by less than {points}; use whichever B is fastest"
    return (
        f"whether B matters cannot be told ({p_value(mean.flat_p)}; sizes may differ by up to "
        f"{percent(mean.difference, 0)} points). Train with B = {mean.lowest:,}, where the "
        "expected accuracy is lowest, or buy more seeds"
    )


def _best_batch(mean: MeanFit, curve: Curve) -> str:
    assert mean.optimum is not None
    assert mean.interval is not None
    best, ends = round(mean.optimum), " to ".join(f"{round(end):,}" for end in mean.interval)
    certainty = f"(95 % interval {ends})"
    if mean.verdict == "optimum":
        return f"train with B = {best:,} {certainty}"
    if mean.verdict == "at least":
        edge, at_edge = "largest", mean.optimum * _EDGE >= curve.batches[-1]
    else:
        edge, at_edge = "smallest", mean.optimum <= curve.batches[0] * _EDGE
    why = "protection still improves at" if at_edge else "it is equally good from there to"
    return f"train with B of {mean.verdict} {best:,} {certainty}; {why} the {edge} batch tried"


def _plateau(mean: MeanFit) -> str:
    low, high = mean.plateau
    points = f"within {100 * mean.margin:g} points of that"
    if low == high:
        return f"By the fitted curve, only {low:,} of the sizes tried is {points}."
    return f"By the fitted curve, any B from {low:,} to {high:,} is {points}."


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
    return f"{failed} of {counted(runs, 'run')} failed ({where})."
