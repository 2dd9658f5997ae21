"""Plots of findings: PNG and SVG files, and figures for the page."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.findings.findings import Finding, Findings, budgets
from analysis.findings.sentences import KINDS, SHAPES, distinction, label
from analysis.findings.sizes import summarise_sizes
from analysis.fits.instability import Kind
from analysis.fits.mean import MeanFit
from analysis.table.table import Floats
from analysis.views.panels import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    PREDICTED,
    RC,
    WIDTH,
    annotate,
    batch_axis,
    create_panels,
    critical_batch,
    full_batch,
    legend,
    legend_entry,
    percent_axis,
    ticks,
    write_figures,
)
from bigbatch_ue.reporting.words import slugs

ALL = "all"
_REFERENCES: dict[str, tuple[str, Any]] = {
    "clean": ("trained on clean images", (0, (8, 2))),
    "noise": ("under random noise", (0, (4, 1.5, 1, 1.5))),
    "chance": ("chance", (0, (1, 1.5))),
}
_BAND: Any = {"alpha": 0.16, "lw": 0}
_SEED: Any = {"marker": "o", "ms": 3.5, "mfc": "none", "mew": 0.7, "ls": "", "alpha": 0.65}
_CLEAR: Any = {"fc": "w", "ec": "none", "pad": 0.4}
_ACCURACY, _BATCH = "test accuracy, %", "effective batch B"
_WITHOUT_BEST = {
    "equivalent": "sizes are equivalent",
    "cannot tell": "whether B matters cannot be told",
}
_YLABELS = (_ACCURACY, "points", "points", "% of runs")


class _CurveStyle(NamedTuple):
    """The style that distinguishes a curve from the others of a panel.

    Attributes:
        rank: position among the curves, from 0.
        label: text of the legend.
        colour: of line and points.
        marker: of the points.
        line: line style.
        shift: factor of B that keeps the points of several curves apart.
    """

    rank: int
    label: str
    colour: str
    marker: str
    line: Any
    shift: float


@mpl.rc_context(RC)
def plot(findings: Findings, folder: Path) -> list[Path]:
    """Write PNG and SVG: each data set, all data sets together, and batch size against steps.

    The same findings give the same bytes.

    Returns:
        The paths.
    """
    names = file_names(findings)
    figures = {names[name]: curves_figure(same) for name, same in findings.datasets.items()}
    if names:
        figures[ALL] = overview_figure(findings.findings, budgets(findings.findings))
    for name, pairs in findings.pairs.items():
        figures[f"steps-{names[name]}"] = steps_figure(pairs)
    return write_figures(figures, folder)


def file_names(findings: Findings) -> dict[str, str]:
    """Return the name of the plot of each data set, without suffix.

    The plot of batch size against steps has this name after `steps-`.
    """
    names = list(findings.datasets)
    taken = [ALL, *(f"steps-{name}" for name in names)]
    return dict(zip(names, list(slugs([*taken, *names]))[len(taken) :], strict=True))


@mpl.rc_context(RC)
def curves_figure(shown: Sequence[Finding], among: Sequence[Finding] = ()) -> Figure:
    """Draw accuracy, instability and unprotected runs against B: one column for each budget.

    Args:
        shown: findings of one data set.
        among: all findings of this data set if `shown` are only some of them. The figure then has
            the scale and style of the whole, and no title.
    """
    is_whole, among = not among, among or shown
    budget_names, arms = budgets(shown), list(dict.fromkeys(f.curve.arm for f in shown))
    styles = _curve_styles(among)
    room = 6 * len(styles)
    below = 2 * room + 3 if _has_prediction(among) else room
    heights = [3.2, 1.2, 1.2, 1.2]
    width, height = WIDTH * len(budget_names) + 0.4, 6.8 * len(arms) + 0.6
    figure, grid = create_panels(width, height, len(budget_names), heights * len(arms))
    tops = [_upper_end(among, kind) for kind in KINDS]
    for row, arm in zip(range(0, len(grid), len(heights)), arms, strict=True):
        for column, budget in enumerate(budget_names):
            here = [f for f in shown if (f.curve.arm, f.curve.budget) == (arm, budget)]
            panels = grid[row : row + len(heights), column]
            batch_axis(panels[0], among)
            percent_axis(panels[0], below=below, above=room)
            _draw_column(panels, here, styles, tops)
            panels[0].set_title(f"{arm}, equal {budget}")
        for panel, ylabel in enumerate(_YLABELS, row):
            grid[panel, 0].set_ylabel(ylabel)
    if is_whole:
        figure.suptitle(shown[0].curve.dataset, weight="bold", size=11)
    named = [_curve_entry(style) for style in styles.values()] if len(styles) > 1 else []
    legend(figure, [*named, *_common_entries(among)], min(4, 2 * len(budget_names)))
    return figure


@mpl.rc_context(RC)
def overview_figure(shown: Sequence[Finding], shown_budgets: Sequence[str]) -> Figure:
    """Draw accuracy, instability and best B of all data sets, one column for each budget."""
    main = Findings(tuple(shown)).main
    curves = [finding.curve for finding in main]
    names = [fill(label(curve, curves), 18) for curve in curves]
    distinct = list(dict.fromkeys(names))
    styles = {name: _curve_style(rank, name, len(distinct)) for rank, name in enumerate(distinct)}
    line_height = 0.06 + 0.16 * max(name.count("\n") + 1 for name in names)
    legend_height = line_height * np.ceil((len(styles) + 2) / (2 * len(shown_budgets)))
    width = WIDTH * len(shown_budgets) + 0.9
    height = 6.9 + line_height * len(styles) + legend_height
    heights = [3.2, 1.2, 1.2, 0.2 + line_height * len(styles)]
    figure, grid = create_panels(width, height, len(shown_budgets), heights)
    for (upper, *unstable, lower), budget in zip(grid.T, shown_budgets, strict=True):
        named = zip(main, names, strict=True)
        here = [(f, styles[name]) for f, name in named if f.curve.budget == budget]
        for finding, style in here:
            mean = pd.DataFrame(summarise_sizes(finding))["mean"]
            _draw_fit(upper, finding.curve.batches * style.shift, mean, finding.mean, style)
            edge = {"transform": upper.get_yaxis_transform(), "clip_on": False}
            upper.plot(1, 100 * finding.curve.clean, "_", ms=9, mew=2, color=style.colour, **edge)
            _draw_best(lower, finding, style.rank, style, style.marker)
        _draw_instability(unstable, here, [_upper_end(main, kind) for kind in KINDS])
        full_batch([upper, *unstable, lower], [finding for finding, _ in here])
        percent_axis(upper)
        upper.set_title(f"equal {budget}")
        lower.set(ylim=(len(styles) - 0.4, -0.6), xlabel=_BATCH)
        lower.set_title("best B, 95 % interval")
        lower.set_yticks(range(len(styles)), list(styles))
        batch_axis(upper, main)
    for panel, ylabel in enumerate(_YLABELS[:3]):
        grid[panel, 0].set_ylabel(ylabel)
    handles: list[Any] = [*map(_curve_entry, styles.values())]
    if any(finding.mean for finding in main):
        handles.append(_band_entry(COLOURS[0]))
    handles.append(legend_entry(_REFERENCES["clean"][0], marker="_", ms=9, mew=2))
    legend(figure, handles, 2 * len(shown_budgets))
    return figure


@mpl.rc_context(RC)
def steps_figure(pairs: Sequence[tuple[Finding, Finding]], *, stacked: bool = False) -> Figure:
    """Draw accuracy against steps at equal epochs, and against B under both budgets.

    Args:
        pairs: findings of one data set, at equal epochs and at equal steps.
        stacked: whether the panels are in one column without a title, as on a page.
    """
    rows, columns = (2 * len(pairs), 1) if stacked else (len(pairs), 2)
    width, height = WIDTH * columns + 0.2, 3.2 * rows + 0.5
    figure, grid = create_panels(width, height, columns, [1.0] * rows, shared_axes=False)
    curves = [epochs.curve for epochs, _ in pairs]
    styles = [
        _curve_style(rank, f"equal {name}", 2) for rank, name in enumerate(("epochs", "steps"))
    ]
    for (left, right), pair in zip(grid.reshape(-1, 2), pairs, strict=True):
        name = fill(distinction(pair[0].curve, curves), 45)
        _draw_against_steps(left, pair[0], styles[0])
        left.set_title(f"{name}\nequal epochs, against steps".strip())
        for finding, style in zip(pair, styles, strict=True):
            _draw_means(right, finding.curve.batches * style.shift, finding, style)
        full_batch([right], pair)
        right.set_title("against B")
        right.set_xlabel(_BATCH)
        batch_axis(right, pair)
        for panel in (left, right):
            percent_axis(panel)
            panel.set_ylabel(_ACCURACY)
    if not stacked:
        figure.suptitle(pairs[0][0].curve.dataset, weight="bold", size=11)
    bar = legend_entry("95 % t interval of the mean", marker="|", ms=10)
    handles = [*map(_curve_entry, styles), bar, legend_entry("one seed", **_SEED)]
    legend(figure, handles, 2 * columns)
    return figure


def _draw_column(
    panels: Sequence[Axes],
    here: Sequence[Finding],
    styles: dict[Any, _CurveStyle],
    tops: Sequence[float],
) -> None:
    """Draw accuracy, instability and unprotected runs of one arm and budget; hide empty panels."""
    accuracy, *unstable, unprotected = panels
    for panel in panels:
        panel.set_visible(bool(here))
    for finding in here:
        style = styles[_variant(finding)]
        _draw_accuracy(accuracy, finding, style)
        if predicted := finding.curve.predicted:
            critical_batch(accuracy, predicted, -5 - 6 * (len(styles) + style.rank), style.colour)
        for name, (_, line) in _REFERENCES.items():
            accuracy.axhline(100 * getattr(finding.curve, name), color=GREY, lw=1.2, ls=line)
    styled = [(finding, styles[_variant(finding)]) for finding in here]
    _draw_instability(unstable, styled, tops)
    _draw_unprotected(unprotected, styled)
    full_batch(panels, here)
    panels[-1].set_xlabel(_BATCH)
    panels[-1].tick_params(labelbottom=True)


def _draw_instability(
    panels: Sequence[Axes], here: Sequence[tuple[Finding, _CurveStyle]], tops: Sequence[float]
) -> None:
    """Draw both kinds of instability, one below the other."""
    for panel, (kind, words), top in zip(panels, KINDS.items(), tops, strict=True):
        for finding, style in here:
            if fit := finding.instability(kind):
                _draw_fit(panel, finding.curve.batches * style.shift, fit.std, fit, style)
        if len(here) == 1 and (fit := here[0][0].instability(kind)):
            words += f": {SHAPES[fit.shape]}" if fit.is_measured else ""
        if not any((fit := finding.instability(kind)) and fit.is_measured for finding, _ in here):
            words += ": not measured"
        panel.set(ylim=(0, top))
        panel.set_title(words, size=8.5)


def _draw_unprotected(panel: Axes, here: Sequence[tuple[Finding, _CurveStyle]]) -> None:
    """Draw the share of runs that leave the images unprotected, with its exact intervals."""
    for finding, style in here:
        if finding.unprotected:
            sizes = finding.unprotected.sizes
            rates = [(100 * r.count / r.runs, 100 * r.low, 100 * r.high) for r in sizes if r.runs]
            known = np.array([rate.runs > 0 for rate in sizes])
            share, low, high = np.array(rates).T
            x, marker = finding.curve.batches[known] * style.shift, style.marker
            ends = np.array([share - low, high - share])
            panel.errorbar(x, share, ends, color=style.colour, marker=marker, ls="", elinewidth=1)
    panel.set(ylim=(-6, 106))
    panel.set_title("runs that left images unprotected, 95 % interval", size=8.5)


def _draw_accuracy(axes: Axes, finding: Finding, style: _CurveStyle) -> None:
    curve, mean, colour = finding.curve, finding.mean, style.colour
    x = curve.batches * style.shift
    _draw_seeds(axes, x, curve.accuracy, colour)
    top, bottom = 105 + 6 * style.rank, -5 - 6 * style.rank
    for place, failed in zip(x, curve.failed, strict=True):
        if failed:
            axes.plot(place, top, "x", ms=5, mew=1.6, color=colour)
            annotate(axes, f"{failed}", (place, top), (4.5, 0), va="center")
    _draw_fit(axes, x, pd.DataFrame(summarise_sizes(finding))["mean"], mean, style)
    if mean is not None and mean.verdict == "effect":
        ends = [bottom, 100 * mean.best]
        axes.plot([mean.optimum] * 2, ends, color=colour, lw=0.9, ls=(0, (1, 2)))
    _draw_best(axes, finding, bottom, style, "D")


def _draw_seeds(axes: Axes, x: Any, accuracy: Floats, colour: str) -> None:
    """Draw the accuracy of every seed, float64 [k, n], as one line without strokes."""
    axes.plot(np.repeat(x, accuracy.shape[1]), 100 * accuracy.ravel(), color=colour, **_SEED)


def _draw_fit(axes: Axes, x: Any, measured: Any, fit: Any, style: _CurveStyle) -> None:
    """Draw the measured values, and the fitted curve with its band if there is a fit."""
    axes.plot(x, 100 * measured, style.marker, ms=6.5, color=style.colour, mec="white", zorder=4)
    if fit is None:
        return
    line = fit.mean if isinstance(fit, MeanFit) else fit.fitted
    axes.plot(fit.at, 100 * line, color=style.colour, ls=style.line, lw=2)
    axes.fill_between(fit.at, 100 * fit.low, 100 * fit.high, color=style.colour, **_BAND)


def _draw_best(axes: Axes, finding: Finding, y: float, style: _CurveStyle, marker: str) -> None:
    """Draw the best B and its interval at height `y`, or write why there is none."""
    mean = finding.mean
    if mean is None or mean.verdict != "effect":
        words = _WITHOUT_BEST[mean.verdict] if mean else "not fitted"
        place = (finding.curve.batches[0], y)
        annotate(axes, words, place, (0, 0), va="center", color=style.colour, bbox=_CLEAR)
        return
    marker = {"largest": ">", "smallest": "<"}.get(mean.edge, marker)
    axes.plot(mean.interval, [y, y], "|-", color=style.colour, lw=2, ms=7, mew=1.5)
    axes.plot(mean.optimum, y, marker, color=style.colour, mec="white", ms=8, zorder=4)


def _draw_against_steps(axes: Axes, finding: Finding, style: _CurveStyle) -> None:
    _draw_means(axes, finding.curve.steps, finding, style)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("optimizer steps (numbers at the points: B)")
    ticks(axes, sorted({int(step) for step in finding.curve.steps if step > 0}))
    frame = pd.DataFrame(summarise_sizes(finding)).query("steps > 0 and mean >= 0")
    frame = frame.sort_values("steps")
    apart = frame["steps"].pct_change().fillna(1) > 0.3
    for _, close in frame.groupby(apart.cumsum()):
        words = ", ".join(f"{batch:,}" for batch in sorted(close["batch"]))
        place = (close["steps"].min(), 100 * close["mean"].max())
        annotate(axes, words, place, (6, 5), zorder=5, bbox=_CLEAR)


def _draw_means(axes: Axes, x: Any, finding: Finding, style: _CurveStyle) -> None:
    """Draw the seeds, and a line through their means with t intervals."""
    _draw_seeds(axes, x, finding.curve.accuracy, style.colour)
    frame = 100 * pd.DataFrame(summarise_sizes(finding))[["mean", "low", "high"]]
    ends = np.array([frame["mean"] - frame["low"], frame["high"] - frame["mean"]])
    line: dict[str, Any] = {"color": style.colour, "ls": style.line, "lw": 1.4, "mec": "white"}
    axes.errorbar(
        x, frame["mean"], ends, marker=style.marker, ms=6.5, elinewidth=1, zorder=4, **line
    )


def _upper_end(among: Sequence[Finding], kind: Kind) -> float:
    """Return the upper end of an axis of instability: the measured values and most of the bands."""
    stds = [fit.std for finding in among if (fit := finding.instability(kind))]
    return 130 * float(np.nanmax(np.concatenate([[0.005], *stds])))


def _has_prediction(among: Sequence[Finding]) -> bool:
    return any(finding.curve.predicted for finding in among)


def _variant(finding: Finding) -> tuple[str, ...]:
    """Return what distinguishes the batches of curves of one arm and budget."""
    return (finding.curve.lr_rule, finding.curve.scope, finding.curve.settings)


def _curve_style(rank: int, label: str, among: int = 1) -> _CurveStyle:
    shift = 2 ** (0.14 * (rank - (among - 1) / 2))
    colour, marker, line = (values[rank % len(values)] for values in (COLOURS, MARKERS, LINES))
    return _CurveStyle(rank, label, colour, marker, line, shift)


def _curve_styles(among: Sequence[Finding]) -> dict[tuple[str, ...], _CurveStyle]:
    """Return a style for each variant of the batches."""
    curves = [finding.curve for finding in among]
    labels = {_variant(f): distinction(f.curve, curves, arm=False) for f in among}
    ranked = enumerate(sorted(labels.items()))
    return {variant: _curve_style(rank, label, len(labels)) for rank, (variant, label) in ranked}


def _curve_entry(style: _CurveStyle) -> Line2D:
    options = {"color": style.colour, "marker": style.marker, "ls": style.line}
    return legend_entry(style.label, **options, mec="white", ms=7, lw=2)


def _band_entry(colour: str) -> Patch:
    return Patch(color=colour, label="95 % interval of the curve", **_BAND)


def _common_entries(among: Sequence[Finding]) -> list[Any]:
    """Return the legend entries of the signs that all curves have in common."""
    colour = COLOURS[0] if len(_curve_styles(among)) == 1 else GREY
    full: dict[str, Any] = {"color": colour, "mec": "white", "ms": 7, "lw": 2}
    handles: list[Any] = [
        legend_entry("measured: mean, std", **full, marker="o"),
        legend_entry("one seed", **_SEED, color=colour),
    ]
    if any(finding.mean for finding in among):
        handles += [
            legend_entry("expected", **full, ls="-"),
            _band_entry(colour),
            legend_entry("best B, 95 % interval", **full, ls="-", marker="D"),
        ]
    if _has_prediction(among):
        handles.append(legend_entry("predicted critical batch", color=colour, **PREDICTED))
    if any(finding.curve.failed.any() for finding in among):
        handles.append(legend_entry("failed runs, number", color=colour, marker="x", mew=1.6, ms=5))
    for name, (text, line) in _REFERENCES.items():
        if any(np.isfinite(getattr(finding.curve, name)) for finding in among):
            handles.append(legend_entry(text, lw=1.2, ls=line))
    return handles
