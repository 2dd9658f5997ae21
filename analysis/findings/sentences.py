"""Findings in plain sentences: the recommendation, and what distinguishes curves."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from analysis.findings.findings import PROTECTED, Finding
from analysis.fits.failures import Unprotected
from analysis.fits.instability import InstabilityFit, Kind, Shape
from analysis.fits.intervals import ALPHA
from analysis.fits.mean import MeanFit
from analysis.fits.together import Together
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
_UNSTABLE: tuple[Shape, ...] = ("both ends", "small batches", "large batches")


def recommendation(finding: Finding, among: Sequence[Curve] = ()) -> str:
    """Say which B protects a data set best, and how certain that is.

    Args:
        finding: finding of a curve.
        among: curves of the same report, to distinguish.
    """
    sentences = (
        _advice(finding, among),
        *_unstable(finding),
        _unprotected(finding),
        _failures(finding.curve),
    )
    return " ".join(filter(None, sentences))


def distinction(curve: Curve, among: Sequence[Curve], *, arm: bool = True) -> str:
    """Say how a curve differs from others, except in data set and budget; may be empty.

    Args:
        curve: one of `among`.
        among: curves to distinguish.
        arm: whether a different arm is said, too.
    """
    words = {
        "arm": curve.arm,
        "lr_rule": _lr_rule(curve),
        "scope": _scope(curve),
        "settings": f"settings {curve.settings[:8]}",
    }
    differ = [name for name in words if len({getattr(other, name) for other in among}) > 1]
    return ", ".join(words[name] for name in differ if arm or name != "arm")


def label(curve: Curve, among: Sequence[Curve]) -> str:
    """Return the data set, and the distinction from other curves of it in `among`."""
    alike = [other for other in among if other.dataset == curve.dataset]
    return ", ".join(filter(None, (curve.dataset, distinction(curve, alike))))


def _lr_rule(one: Curve | Together) -> str:
    return f"{'unscaled' if one.lr_rule == 'none' else one.lr_rule} learning rate"


def _scope(one: Curve | Together) -> str:
    return f"batches of the {'cluster' if one.scope == 'cluster' else 'whole set'}"


def together_title(one: Together) -> str:
    """Name the curves that several data sets have in common, such as `3 data sets, equal steps`."""
    parts = [f"{len(one.datasets)} data sets", f"equal {one.budget}"]
    if one.lr_rule != "none":
        parts.append(_lr_rule(one))
    if one.scope != "cluster":
        parts.append(_scope(one))
    return ", ".join(parts)


def together_statement(one: Together) -> str:
    """Say whether several data sets together are unstable, and whether B acts alike in all."""
    sentences = []
    if one.seeds:
        sentences.append(f"Across seeds, runs spread {_instability(one.seeds)}.")
    if math.isfinite(one.spread.differ_p):
        sentences.append(_spread(one))
    if one.oscillation:
        sentences.append(f"Within a run, accuracy oscillates {_instability(one.oscillation)}.")
    if one.unprotected and one.unprotected.total.count:
        rate = one.unprotected.total
        sentences.append(
            f"{rate.count} of {rate.runs} runs left the images unprotected"
            f"{_trend(one.unprotected)}."
        )
    if math.isfinite(one.differ_p):
        sentences.append(_difference(one))
    said = " ".join(sentences)
    return f"{together_title(one)}: {said[:1].lower()}{said[1:]}"


def _spread(one: Together) -> str:
    """Say whether the spread changes with B alike, and by which factor in each data set."""
    factors = zip(one.datasets, one.spread.factors, strict=True)
    known = [f"{factor:.2g} on {name}" for name, factor in factors if math.isfinite(factor)]
    differs = _differs(one.spread.adjusted_differ_p, ", ".join(known))
    return f"The factor by which the spread across seeds changes {differs}"


def _difference(one: Together) -> str:
    """Say whether accuracy changes with B alike, by how much in each, and where it is unknown."""
    changes = dict(zip(one.datasets, one.changes, strict=True))
    known = [f"{100 * by:+.1f} on {name}" for name, by in changes.items() if math.isfinite(by)]
    unknown = [name for name, by in changes.items() if not math.isfinite(by)]
    weak = f" Too few seeds have enough sizes on {', '.join(unknown)}." if unknown else ""
    differs = _differs(one.adjusted_differ_p, f"in points, {', '.join(known)}")
    return f"The change of accuracy from the smallest to the largest B {differs}{weak}"


def _differs(p: float, values: str) -> str:
    verdict = "differs" if p < ALPHA else "is not shown to differ"
    return f"{verdict} between data sets ({p_value(p)}; {values})."


def _instability(fit: InstabilityFit) -> str:
    """Say how much less or more it is at the largest B, and what that shows."""
    low, high = fit.change_interval
    if fit.shape == "even":
        verdict = "even: on average over them, no two sizes can differ threefold"
    else:
        verdict = f"{SHAPES[fit.shape]}, {p_value(fit.adjusted_p)}"
    return (
        f"{fit.change:.2f} times [{low:.2f}, {high:.2f}] as much at the largest B as at the "
        f"smallest ({verdict})"
    )


def _where(curve: Curve, among: Sequence[Curve]) -> str:
    """Name a curve; an unscaled learning rate is said beside others only, protection never."""
    where = curve.title.replace(f", {PROTECTED}:", ":", 1).replace(": equal", " at equal", 1)
    rules = {other.lr_rule for other in among if other.dataset == curve.dataset}
    is_beside_others = curve.lr_rule == "none" and len(rules) > 1
    return f"{where}, {_lr_rule(curve)}" if is_beside_others else where


def _advice(finding: Finding, among: Sequence[Curve]) -> str:
    curve, mean = finding.curve, finding.mean
    where = _where(curve, among)
    if mean is None:
        return f"{where}: no recommendation ({finding.problem})."
    instead = "" if math.isnan(curve.clean) else f", instead of {percent(curve.clean, 0)} %"
    ends = interval(*mean.best_interval, 0, between=", ")
    reached = f"{percent(mean.best, 0)} % [{ends}] of clean test images{instead}"
    if mean.best_interval[1] >= curve.clean - mean.margin:
        is_shown = mean.best_interval[0] >= curve.clean - mean.margin
        by = f"by more than {100 * mean.margin:g} points"
        verdict = f"not protected {by}" if is_shown else f"protection {by} is not shown"
        return (
            f"{where}: {verdict} at any batch size tried. At best, networks still recognise, on "
            f"average, {reached}."
        )
    noise = ""
    if mean.best_interval[1] >= curve.noise - mean.margin:
        noise = f" Random noise alone protects as well ({percent(curve.noise, 0)} %)."
    advice = _best_batch(mean) if mean.verdict == "effect" else _without_effect(mean)
    return (
        f"{where}: {advice}. Networks then recognise, on average, {reached}.{_shape(mean)}{noise}"
    )


def _without_effect(mean: MeanFit) -> str:
    if mean.verdict == "equivalent":
        points = f"{100 * mean.margin:g} points"
        return f"the sizes tried differ by less than {points}; use whichever B is fastest"
    return (
        f"whether B matters cannot be told ({p_value(mean.adjusted_p)}; two sizes may differ by up "
        f"to {percent(mean.difference, 0)} points; alone, such a curve would show a straight "
        f"change of {percent(mean.detectable, 0)} points in 80 % of cases). No size is shown to be "
        f"better: take B = {mean.lowest:,}, where the expected accuracy is lowest, or plan more "
        "seeds (python -m analysis design)"
    )


def _best_batch(mean: MeanFit) -> str:
    ends = " to ".join(f"{round(end):,}" for end in mean.interval)
    beyond = {
        "none": "",
        "smallest": "; smaller batches than those tried may be better",
        "largest": "; larger batches than those tried may be better",
        "both": "; where it is best is not known",
    }
    return (
        f"B matters ({p_value(mean.adjusted_p)}): train with B = {round(mean.optimum):,} "
        f"(95 % interval {ends}){beyond[mean.edge]}"
    )


def _shape(mean: MeanFit) -> str:
    """Say whether accuracy falls and rises, and which sizes are as good as the best."""
    words = ""
    if mean.adjusted_valley_p < ALPHA:
        words = f" Accuracy falls and then rises with B ({p_value(mean.adjusted_valley_p)})."
    if mean.verdict != "effect":
        return words
    points = f"{100 * mean.margin:g} points of the best size tried"
    if not mean.as_good:
        return f"{words} No size is shown to be within {points}."
    sizes = [f"{size:,}" for size in mean.as_good]
    listed = " and ".join(filter(None, (", ".join(sizes[:-1]), sizes[-1])))
    return f"{words} Shown to be within {points}: {listed}."


def _unstable(finding: Finding) -> Iterator[str]:
    """Say where runs are shown to be unstable."""
    for kind, name in KINDS.items():
        fit = finding.instability(kind)
        if fit and fit.shape in _UNSTABLE:
            said = f"{SHAPES[fit.shape]} ({p_value(fit.adjusted_p)})"
            yield f"{name[:1].upper()}{name[1:]}: {said}."


def _unprotected(finding: Finding) -> str:
    if finding.unprotected is None or finding.mean is None or not finding.unprotected.total.count:
        return ""
    rate, sizes = finding.unprotected.total, finding.unprotected.sizes
    where = ", ".join(
        f"{size.count} at B = {batch:,}"
        for batch, size in zip(finding.curve.batches.tolist(), sizes, strict=True)
        if size.count
    )
    return (
        f"{rate.count} of {rate.runs} runs left the images unprotected, within "
        f"{100 * finding.mean.margin:g} points of clean ones: {percent(rate.count / rate.runs, 0)} "
        f"% [{interval(rate.low, rate.high, 0, between=', ')}] ({where}"
        f"{_trend(finding.unprotected)})."
    )


def _trend(unprotected: Unprotected) -> str:
    """Say whether more runs are unprotected at a larger or at a smaller B; empty if untested."""
    p = unprotected.adjusted_trend_p
    if not math.isfinite(p):
        return ""
    more = f"more at a {'larger' if unprotected.rises else 'smaller'} B"
    return f"; {more}{'' if p < ALPHA else ' is not shown'}, {p_value(p)}"


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
