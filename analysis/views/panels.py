"""The common parts of all figures: style, files, panels, axes and annotations."""

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
from bigbatch_ue.reporting.style import FILE_DPI, PALETTE, figure_uri

COLOURS = tuple(PALETTE.values())
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
GREY = "0.35"
WIDTH = 4.2
PREDICTED: Any = {"marker": "|", "ms": 10, "mew": 1.2, "lw": 0.9, "ls": "-"}
"""Style of a critical batch and its range: thinner than the best B and its interval."""

_MARGIN = 0.4
"""Space on either side of an axis of B, in doublings."""


def create_panels(
    width: float,
    height: float,
    columns: int,
    heights: Sequence[float],
    *,
    shared_axes: bool = True,
) -> tuple[Figure, Any]:
    """Create a figure with panels.

    Args:
        width: width of the figure, in inches.
        height: height of the figure, in inches.
        columns: number of columns.
        heights: relative height of each row.
        shared_axes: whether all panels share their x axis, and those of a row their y axis.

    Returns:
        The figure, and its axes by row and column.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    options: dict[str, Any] = {"sharex": shared_axes, "sharey": "row" if shared_axes else False}
    shape = (len(heights), columns)
    return figure, figure.subplots(*shape, squeeze=False, height_ratios=heights, **options)


@mpl.rc_context(RC)
def write_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as `name.png` and `name.svg`, the same bytes every time.

    Returns:
        The paths.
    """
    paths = []
    for name, figure in figures.items():
        fix_layout(figure)
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            path = folder / f"{name}.{kind}"
            with atomic_file(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=FILE_DPI, metadata=metadata)
            paths.append(path)
    return paths


@mpl.rc_context(RC)
def page_uri(figure: Figure) -> str:
    """Return a figure in the common style as a `data:` URI for the page."""
    return figure_uri(figure)


def fix_layout(figure: Figure) -> None:
    """Fix the layout of a figure, with rounded positions of its panels.

    The layout solver depends on memory addresses: the last digits of a position differ between
    processes, and so would the identifiers that an SVG derives from them.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position().bounds, 9).tolist())


def legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """Add one legend below all panels."""
    figure.legend(handles=handles, ncols=columns, loc="outside lower center", handlelength=2.6)


def legend_entry(label: str, **style: Any) -> Line2D:
    """Return an entry of a legend, grey and without a line unless `style` differs."""
    return Line2D([], [], label=label, **{"color": GREY, "ls": "", **style})


def annotate(axes: Axes, text: str, at: Any, offset: tuple[float, float], **style: Any) -> None:
    """Write small text `offset` points from `at`."""
    axes.annotate(text, at, offset, textcoords="offset points", size=8, **style)


def percent_axis(axes: Axes, below: float = 3, above: float = 3) -> None:
    """Make the y axis 0 to 100 %, with extra space `below` and `above`."""
    axes.set(ylim=(-2 - below, 102 + above), yticks=range(0, 101, 20))


def batch_axis(axes: Axes, shown: Iterable[Finding]) -> None:
    """Make the x axis logarithmic, labelled with the batch sizes of the findings."""
    log2_axis(axes, (int(batch) for finding in shown for batch in finding.curve.batches))


def log2_axis(axes: Axes, batches: Iterable[int]) -> None:
    """Make the x axis logarithmic, with a tick at each of `batches`."""
    sizes = sorted(set(batches))
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] * 2**-_MARGIN, sizes[-1] * 2**_MARGIN)
    ticks(axes, sizes)


def ticks(axes: Axes, values: Sequence[int]) -> None:
    """Set ticks at ascending `values`; label the last, and as many others as leave it free."""
    if not values:
        return
    points_per_doubling = 72 * (WIDTH - 0.8) / (np.log2(values[-1] / values[0]) + 2 * _MARGIN)
    texts = [f"{value:,}" for value in values]
    centres = points_per_doubling * np.log2(values)
    halves = [2.9 * len(text) + 2 for text in texts]
    labels, end, last = [], -np.inf, centres[-1] - halves[-1]
    for text, centre, half in zip(texts[:-1], centres, halves, strict=False):
        is_free = centre - half > end and centre + half < last
        labels.append(text if is_free else "")
        end = centre + half if is_free else end
    labels.append(texts[-1])
    axes.set_xticks(values, labels)
    axes.minorticks_off()


def critical_batch(axes: Axes, critical: CriticalBatch, y: float, colour: str) -> None:
    """Draw a predicted critical batch: a vertical line, and at height `y` its range with a tick.

    A range that leaves the axis ends in an arrow; a value outside has neither line nor tick.
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
    """Shade the full batches of the findings `here`: B as large as the set it is drawn from."""
    curves = [finding.curve for finding in here]
    reached = {c.full for c in curves if 0 < c.full <= c.batches[-1]}
    for panel in panels:
        for full in reached:
            panel.axvspan(full, 2.0**60, color="0.5", alpha=0.13, lw=0, zorder=0)
    if reached:
        style: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "color": GREY}
        annotate(panels[0], "full batch", (1, 1), (0, 4), **style)
