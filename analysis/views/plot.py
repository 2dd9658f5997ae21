"""Plots of what was found: PNG and SVG for papers, WebP for the page."""

import base64
import io
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

from analysis.findings.findings import (
    KINDS,
    SHAPES,
    Finding,
    Findings,
    budgets,
    label,
    manner,
    sizes,
)
from analysis.fits.instability import Kind
from analysis.fits.mean import MeanFit
from analysis.views.panels import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    PREDICTED,
    RC,
    WIDTH,
    annotate,
    critical_batch,
    full_batch,
    grid_of,
    legend,
    legend_entry,
    percent_axis,
    size_axis,
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
_PAGE_DPI = 170
_WEBP = {"lossless": True, "method": 4}
_BAND: Any = {"alpha": 0.16, "lw": 0}
_SEED: Any = {"marker": "o", "ms": 3.5, "mfc": "none", "mew": 0.7, "ls": "", "alpha": 0.65}
_CLEAR: Any = {"fc": "w", "ec": "none", "pad": 0.4}
_ACCURACY, _SIZE = "test accuracy, %", "effective batch B"


class _Look(NamedTuple):
    """How a curve is told from the others of a panel; `shift`, a factor of B, parts points."""

    rank: int
    label: str
    colour: str
    marker: str
    line: Any
    shift: float


@mpl.rc_context(RC)
def plot(findings: Findings, folder: Path) -> list[Path]:
    """Write PNG and SVG: each data set, all together, and batch size against steps.

    The same findings give the same bytes. Returns the paths.
    """
    names = file_names(findings)
    figures = {names[name]: curves_figure(same) for name, same in findings.datasets.items()}
    if names:
        figures[ALL] = overview_figure(findings.findings, budgets(findings.findings))
    for name, found in findings.pairs.items():
        figures[f"steps-{names[name]}"] = steps_figure(found)
    return write_figures(figures, folder)


def file_names(findings: Findings) -> dict[str, str]:
    """Of each data set, the name of its plot, without suffix; `steps-` and it is the other's."""
    names = list(findings.datasets)
    taken = [ALL, *(f"steps-{name}" for name in names)]
    return dict(zip(names, list(slugs([*taken, *names]))[len(taken) :], strict=True))


@mpl.rc_context(RC)
def data_uri(figure: Figure) -> str:
    """A figure as a WebP picture in a `data:` URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=_PAGE_DPI, pil_kwargs=_WEBP)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@mpl.rc_context(RC)
def curves_figure(shown: Sequence[Finding], among: Sequence[Finding] = ()) -> Figure:
    """Accuracy and instability against B: a column for each budget, three rows for each arm.

    Args:
        shown: findings of one data set.
        among: all of this data set, if `shown` are some of them; parts of a page then have one
            scale and style, and no title.
    """
    whole, among = not among, among or shown
    kinds, arms = budgets(shown), list(dict.fromkeys(f.curve.arm for f in shown))
    looks = _looks(among)
    room = 6 * len(looks)
    below = 2 * room + 3 if _predicted(among) else room
    width, height = WIDTH * len(kinds) + 0.4, 5.6 * len(arms) + 0.6
    figure, grid = grid_of(width, height, len(kinds), [3.2, 1.2, 1.2] * len(arms))
    tops = [_top(among, kind) for kind in KINDS]
    for row, arm in zip(range(0, len(grid), 3), arms, strict=True):
        for column, budget in enumerate(kinds):
            here = [f for f in shown if (f.curve.arm, f.curve.budget) == (arm, budget)]
            panels = grid[row : row + 3, column]
            size_axis(panels[0], among)
            percent_axis(panels[0], below=below, above=room)
            _column(panels, here, looks, tops)
            panels[0].set_title(f"{arm}, equal {budget}")
        for panel, what in enumerate((_ACCURACY, "points", "points"), row):
            grid[panel, 0].set_ylabel(what)
    if whole:
        figure.suptitle(shown[0].curve.dataset, weight="bold", size=11)
    named = [_proxy(look) for look in looks.values()] if len(looks) > 1 else []
    legend(figure, [*named, *_key(among)], min(4, 2 * len(kinds)))
    return figure


@mpl.rc_context(RC)
def overview_figure(shown: Sequence[Finding], kinds: Sequence[str]) -> Figure:
    """All data sets under some budgets: accuracy, instability, and where the best B lies."""
    main = Findings(tuple(shown)).main
    curves = [finding.curve for finding in main]
    names = [fill(label(curve, curves), 18) for curve in curves]
    distinct = list(dict.fromkeys(names))
    looks = {name: _look(rank, name, len(distinct)) for rank, name in enumerate(distinct)}
    line = 0.06 + 0.16 * max(name.count("\n") + 1 for name in names)
    named = line * np.ceil((len(looks) + 2) / (2 * len(kinds)))
    width, height = WIDTH * len(kinds) + 0.9, 6.9 + line * len(looks) + named
    figure, grid = grid_of(width, height, len(kinds), [3.2, 1.2, 1.2, 0.2 + line * len(looks)])
    for (upper, *unstable, lower), budget in zip(grid.T, kinds, strict=True):
        here = [(f, looks[n]) for f, n in zip(main, names, strict=True) if f.curve.budget == budget]
        for finding, look in here:
            mean = pd.DataFrame(sizes(finding))["mean"]
            _fit(upper, finding.curve.batches * look.shift, mean, finding.mean, look)
            edge = {"transform": upper.get_yaxis_transform(), "clip_on": False}
            upper.plot(1, 100 * finding.curve.clean, "_", ms=9, mew=2, color=look.colour, **edge)
            _best(lower, finding, look.rank, look, look.marker)
        _unstable(unstable, here, [_top(main, kind) for kind in KINDS])
        full_batch([upper, *unstable, lower], [finding for finding, _ in here])
        percent_axis(upper)
        upper.set_title(f"equal {budget}")
        lower.set(ylim=(len(looks) - 0.4, -0.6), xlabel=_SIZE)
        lower.set_title("best B, 95 % interval")
        lower.set_yticks(range(len(looks)), list(looks))
        size_axis(upper, main)
    for panel, what in enumerate((_ACCURACY, "points", "points")):
        grid[panel, 0].set_ylabel(what)
    clean = legend_entry(_REFERENCES["clean"][0], marker="_", ms=9, mew=2)
    bands = Patch(color=GREY, label="95 % interval of the fit", **_BAND)
    legend(figure, [*map(_proxy, looks.values()), bands, clean], 2 * len(kinds))
    return figure


@mpl.rc_context(RC)
def steps_figure(found: Sequence[tuple[Finding, Finding]], *, stacked: bool = False) -> Figure:
    """Accuracy against steps at equal epochs, and against B under both budgets.

    Args:
        found: pairs at equal epochs and equal steps, of one data set.
        stacked: one panel below the other and without a title, for a page.
    """
    rows, columns = (2 * len(found), 1) if stacked else (len(found), 2)
    width, height = WIDTH * columns + 0.2, 3.2 * rows + 0.5
    figure, grid = grid_of(width, height, columns, [1.0] * rows, share=False)
    curves = [epochs.curve for epochs, _ in found]
    looks = [_look(rank, f"equal {name}", 2) for rank, name in enumerate(("epochs", "steps"))]
    for (left, right), pair in zip(grid.reshape(-1, 2), found, strict=True):
        name = fill(manner(pair[0].curve, curves), 45)
        _against_steps(left, pair[0], looks[0])
        left.set_title(f"{name}\nequal epochs, against steps".strip())
        for finding, look in zip(pair, looks, strict=True):
            _means(right, finding.curve.batches * look.shift, finding, look)
        full_batch([right], pair)
        right.set_title("against B")
        right.set_xlabel(_SIZE)
        size_axis(right, pair)
        for panel in (left, right):
            percent_axis(panel)
            panel.set_ylabel(_ACCURACY)
    if not stacked:
        figure.suptitle(found[0][0].curve.dataset, weight="bold", size=11)
    bar = legend_entry("95 % t interval of the mean", marker="|", ms=10)
    handles = [*map(_proxy, looks), bar, legend_entry("one seed", **_SEED)]
    legend(figure, handles, 2 * columns)
    return figure


def _column(
    panels: Sequence[Axes], here: Sequence[Finding], looks: dict[Any, _Look], tops: Sequence[float]
) -> None:
    """Accuracy and both kinds of instability of one arm and budget."""
    accuracy, *unstable = panels
    for panel in panels:
        panel.set_visible(bool(here))
    for finding in here:
        look = looks[_variant(finding)]
        _accuracy(accuracy, finding, look)
        if predicted := finding.curve.predicted:
            critical_batch(accuracy, predicted, -5 - 6 * (len(looks) + look.rank), look.colour)
        for name, (_, line) in _REFERENCES.items():
            accuracy.axhline(100 * getattr(finding.curve, name), color=GREY, lw=1.2, ls=line)
    _unstable(unstable, [(finding, looks[_variant(finding)]) for finding in here], tops)
    full_batch(panels, here)
    panels[-1].set_xlabel(_SIZE)
    panels[-1].tick_params(labelbottom=True)


def _unstable(
    panels: Sequence[Axes], here: Sequence[tuple[Finding, _Look]], tops: Sequence[float]
) -> None:
    """Both kinds of instability, one below the other."""
    for panel, (kind, words), top in zip(panels, KINDS.items(), tops, strict=True):
        for finding, look in here:
            if fit := finding.instability(kind):
                _fit(panel, finding.curve.batches * look.shift, fit.std, fit, look)
        if len(here) == 1 and (fit := here[0][0].instability(kind)):
            words += f": {SHAPES[fit.shape]}"
        panel.set(ylim=(0, top))
        panel.set_title(words, size=8.5)


def _accuracy(axes: Axes, finding: Finding, look: _Look) -> None:
    curve, mean, colour = finding.curve, finding.mean, look.colour
    x = curve.batches * look.shift
    axes.plot(x, 100 * curve.accuracy, color=colour, **_SEED)
    top, bottom = 105 + 6 * look.rank, -5 - 6 * look.rank
    for place, failed in zip(x, curve.failed, strict=True):
        if failed:
            axes.plot(place, top, "x", ms=5, mew=1.6, color=colour)
            annotate(axes, f"{failed}", (place, top), (4.5, 0), va="center")
    _fit(axes, x, pd.DataFrame(sizes(finding))["mean"], mean, look)
    if mean is not None and mean.optimum is not None:
        ends = [bottom, 100 * mean.best]
        axes.plot([mean.optimum] * 2, ends, color=colour, lw=0.9, ls=(0, (1, 2)))
    _best(axes, finding, bottom, look, "D")


def _fit(axes: Axes, x: Any, measured: Any, fit: Any, look: _Look) -> None:
    """What was measured, and the curve with its band, if there is one."""
    axes.plot(x, 100 * measured, look.marker, ms=6.5, color=look.colour, mec="white", zorder=4)
    if fit is None:
        return
    line = fit.mean if isinstance(fit, MeanFit) else fit.fitted
    axes.plot(fit.at, 100 * line, color=look.colour, ls=look.line, lw=2)
    axes.fill_between(fit.at, 100 * fit.low, 100 * fit.high, color=look.colour, **_BAND)


def _best(axes: Axes, finding: Finding, y: float, look: _Look, marker: str) -> None:
    """The best B and its interval at height `y`, or why there is none."""
    mean = finding.mean
    if mean is None or mean.optimum is None or mean.interval is None:
        words = "not fitted" if mean is None else "no effect of B is shown"
        place = (finding.curve.batches[0], y)
        annotate(axes, words, place, (0, 0), va="center", color=look.colour, bbox=_CLEAR)
        return
    marker = {"at least": ">", "at most": "<"}.get(mean.verdict, marker)
    axes.plot(mean.interval, [y, y], "|-", color=look.colour, lw=2, ms=7, mew=1.5)
    axes.plot(mean.optimum, y, marker, color=look.colour, mec="white", ms=8, zorder=4)


def _against_steps(axes: Axes, finding: Finding, look: _Look) -> None:
    _means(axes, finding.curve.steps, finding, look)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("optimizer steps (numbers at the points: B)")
    ticks(axes, sorted({int(step) for step in finding.curve.steps if step > 0}))
    frame = pd.DataFrame(sizes(finding)).query("steps > 0 and mean >= 0").sort_values("steps")
    apart = frame["steps"].pct_change().fillna(1) > 0.3
    for _, close in frame.groupby(apart.cumsum()):
        words = ", ".join(f"{batch:,}" for batch in sorted(close["batch"]))
        place = (close["steps"].min(), 100 * close["mean"].max())
        annotate(axes, words, place, (6, 5), zorder=5, bbox=_CLEAR)


def _means(axes: Axes, x: Any, finding: Finding, look: _Look) -> None:
    """Seeds, and their means with t intervals, joined."""
    axes.plot(x, 100 * finding.curve.accuracy, color=look.colour, **_SEED)
    frame = 100 * pd.DataFrame(sizes(finding))[["mean", "low", "high"]]
    ends = np.array([frame["mean"] - frame["low"], frame["high"] - frame["mean"]])
    line: dict[str, Any] = {"color": look.colour, "ls": look.line, "lw": 1.4, "mec": "white"}
    axes.errorbar(
        x, frame["mean"], ends, marker=look.marker, ms=6.5, elinewidth=1, zorder=4, **line
    )


def _top(among: Sequence[Finding], kind: Kind) -> float:
    """Upper end of an axis of instability: what was measured, and room for most of the band."""
    stds = [fit.std for finding in among if (fit := finding.instability(kind))]
    return 130 * float(np.nanmax(np.concatenate([[0.005], *stds])))


def _predicted(among: Sequence[Finding]) -> bool:
    return any(finding.curve.predicted for finding in among)


def _variant(finding: Finding) -> tuple[str, ...]:
    return (finding.curve.lr_rule, finding.curve.scope, finding.curve.settings)


def _look(rank: int, label: str, among: int = 1) -> _Look:
    shift = 2 ** (0.14 * (rank - (among - 1) / 2))
    colour, marker, line = (values[rank % len(values)] for values in (COLOURS, MARKERS, LINES))
    return _Look(rank, label, colour, marker, line, shift)


def _looks(among: Sequence[Finding]) -> dict[tuple[str, ...], _Look]:
    """A look for each manner of making the batches."""
    curves = [finding.curve for finding in among]
    manners = {_variant(f): manner(f.curve, curves, arm=False) for f in among}
    ranked = enumerate(sorted(manners.items()))
    return {manner: _look(rank, label, len(manners)) for rank, (manner, label) in ranked}


def _proxy(look: _Look) -> Line2D:
    style = {"color": look.colour, "marker": look.marker, "ls": look.line}
    return legend_entry(look.label, **style, mec="white", ms=7, lw=2)


def _key(among: Sequence[Finding]) -> list[Any]:
    """What the signs mean that all curves have in common."""
    colour = COLOURS[0] if len(_looks(among)) == 1 else GREY
    full: dict[str, Any] = {"color": colour, "mec": "white", "ms": 7, "lw": 2}
    handles: list[Any] = [
        legend_entry("fit", **full, ls="-"),
        Patch(color=colour, label="95 % interval of the fit", **_BAND),
        legend_entry("measured: mean, std", **full, marker="o"),
        legend_entry("one seed", **_SEED, color=colour),
        legend_entry("best B, 95 % interval", **full, ls="-", marker="D"),
    ]
    if _predicted(among):
        handles.append(legend_entry("predicted critical batch", color=colour, **PREDICTED))
    if any(finding.curve.failed.any() for finding in among):
        handles.append(legend_entry("failed runs, number", color=colour, marker="x", mew=1.6, ms=5))
    for name, (what, line) in _REFERENCES.items():
        if any(np.isfinite(getattr(finding.curve, name)) for finding in among):
            handles.append(legend_entry(what, lw=1.2, ls=line))
    return handles
