"""What all figures share: style, files, panels, axes, and what is written on them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.findings.findings import Finding
from analysis.table.table import CriticalBatch
from bigbatch_ue.files.atomic import atomic_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""After Okabe and Ito: told apart whatever one's colour vision; markers tell the same in grey."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1.2)))
RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "bigbatch-ue",
}
_DPI = 150
GREY = "0.35"
WIDTH = 4.2
PREDICTED: Any = {"marker": "|", "ms": 10, "mew": 1.2, "lw": 0.9, "ls": "-"}
"""A critical batch and its range, thinner than the best B and its interval."""

_ROOM = 0.4


def grid_of(
    width: float, height: float, columns: int, heights: Sequence[float], *, share: bool = True
) -> tuple[Figure, Any]:
    """A figure, and its panels, rows by columns; `share`: with one x axis, and one y axis a row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    sharing: dict[str, Any] = {"sharex": share, "sharey": "row" if share else False}
    shape = (len(heights), columns)
    return figure, figure.subplots(*shape, squeeze=False, height_ratios=heights, **sharing)


@mpl.rc_context(RC)
def write_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures by name as PNG and SVG, the same bytes every time. Returns the paths."""
    paths = []
    for name, figure in figures.items():
        fix_layout(figure)
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            path = folder / f"{name}.{kind}"
            with atomic_file(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)
            paths.append(path)
    return paths


def fix_layout(figure: Figure) -> None:
    """Lay a figure out for good, its panels at rounded places.

    The solver of the layout goes by memory addresses: the last digit of a place differs between
    runs, and so would the names that an SVG derives from it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position().bounds, 9).tolist())


def legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """One legend below all panels."""
    figure.legend(handles=handles, ncols=columns, loc="outside lower center", handlelength=2.6)


def legend_entry(label: str, **style: Any) -> Line2D:
    """An entry of a legend; grey and without a line unless `style` says otherwise."""
    return Line2D([], [], label=label, **{"color": GREY, "ls": "", **style})


def annotate(axes: Axes, words: str, place: Any, offset: tuple[float, float], **more: Any) -> None:
    """Small words at `place`, moved by `offset` points."""
    axes.annotate(words, place, offset, textcoords="offset points", size=8, **more)


def percent_axis(axes: Axes, below: float = 3, above: float = 3) -> None:
    """0 to 100 %, with some room."""
    axes.set(ylim=(-2 - below, 102 + above), yticks=range(0, 101, 20))


def size_axis(axes: Axes, shown: Iterable[Finding]) -> None:
    """A log2 axis with the real batch sizes on it."""
    log2_axis(axes, (int(batch) for finding in shown for batch in finding.curve.batches))


def log2_axis(axes: Axes, batches: Iterable[int]) -> None:
    """A log2 axis with `batches` on it, and some room."""
    places = sorted(set(batches))
    axes.set_xscale("log", base=2)
    axes.set_xlim(places[0] * 2**-_ROOM, places[-1] * 2**_ROOM)
    ticks(axes, places)


def ticks(axes: Axes, places: Sequence[int]) -> None:
    """Ticks at `places`; a label is left out where it would touch the one before."""
    if not places:
        return
    scale = 72 * (WIDTH - 0.8) / (np.log2(places[-1] / places[0]) + 2 * _ROOM)
    labels, end = [], -np.inf
    for place in places:
        text = f"{place:,}"
        centre, half = scale * np.log2(place), 2.9 * len(text) + 2
        fits = centre - half > end
        labels.append(text if fits else "")
        end = centre + half if fits else end
    axes.set_xticks(places, labels)
    axes.minorticks_off()


def critical_batch(axes: Axes, critical: CriticalBatch, y: float, colour: str) -> None:
    """A predicted critical batch: a line up the panel, and at height `y` a tick on its range.

    Where the range leaves the axis it ends in an arrow; a value out there has neither line nor
    tick.
    """
    left, right = axes.get_xlim()
    ends = np.clip([critical.low, critical.high], left, right).tolist()
    axes.plot(ends, [y, y], color=colour, **{**PREDICTED, "marker": ""})
    arrows = {"<": (left, critical.low < left), ">": (right, critical.high > right)}
    for arrow, (edge, outside) in arrows.items():
        if outside:
            axes.plot(edge, y, arrow, ms=4.5, color=colour, clip_on=False)
    if left <= critical.value <= right:
        axes.axvline(critical.value, color=colour, lw=0.8, ls=(0, (6, 3)), alpha=0.7)
        axes.plot(critical.value, y, color=colour, **PREDICTED)


def full_batch(panels: Sequence[Axes], here: Sequence[Finding]) -> None:
    """Shade where a batch is as large as what it is drawn from."""
    curves = [finding.curve for finding in here]
    reached = {c.full for c in curves if 0 < c.full <= c.batches[-1]}
    for panel in panels:
        for full in reached:
            panel.axvspan(full, 2.0**60, color="0.5", alpha=0.13, lw=0, zorder=0)
    if reached:
        place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "color": GREY}
        annotate(panels[0], "full batch", (1, 1), (0, 4), **place)
