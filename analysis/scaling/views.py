"""A scaling table to look at: figures, and a table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich import box
from rich.table import Table

from analysis.scaling.table import CURVE, ENGINES, PATHS, fastest, workloads
from analysis.views.panels import (
    COLOURS,
    LINES,
    MARKERS,
    RC,
    WIDTH,
    grid_of,
    legend,
    legend_entry,
    log2_axis,
    write_figures,
)
from bigbatch_ue.reporting.words import number, percent, slugs

_PANELS = {
    "images_per_s": "images per second",
    "step_s": "seconds per step",
    "peak_memory_mib": "peak memory of a rank, MiB",
    "bytes_per_step": "sent per step",
}
_LOG = ("step_s", "bytes_per_step")
_STYLES: dict[str, dict[str, Any]] = {
    path: {"ls": line, "marker": marker}
    for path, line, marker in zip(reversed(PATHS), LINES, MARKERS, strict=False)
}
_HOLLOW = "float32"
_APART = 0.06
_DECADES = 50


def plot_scaling(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a figure for each workload as PNG and SVG, the same bytes every time.

    Args:
        table: of `scaling.scaling_table`.
        folder: where to.

    Returns:
        The paths.
    """
    found = list(workloads(table))
    names = slugs(title for title, _ in found)
    figures = [scaling_figure(title, rows) for title, rows in found]
    return write_figures(dict(zip(names, figures, strict=True)), folder)


@mpl.rc_context(RC)
def scaling_figure(title: str, rows: pd.DataFrame) -> Figure:
    """Speed, time, memory and traffic against B; of several micro-batches, the fastest.

    An engine is told by its colour, a path by its line and marker, a number of ranks by the
    marker's size, float32 among other precisions by a hollow one; engines are moved apart a little.
    A line joins sizes with the same micro-batch. What nobody has (such as traffic of a single
    process) has no panel.

    Args:
        title: of the figure.
        rows: of one workload.
    """
    rows = fastest(rows)
    panels = [name for name in _PANELS if (rows[name] > 0).any()]
    columns = 2 if len(panels) == 4 else len(panels)
    height = -(-len(panels) // columns)
    size = WIDTH * columns + 0.2, 2.9 * height + 1.3
    figure, grid = grid_of(*size, columns, [1.0] * height, share=False)
    for axes, name in zip(grid.flat, panels, strict=True):
        _panel(axes, name, rows)
    figure.suptitle(title, weight="bold", size=11)
    legend(figure, list(_key(rows)), 2 * columns)
    return figure


def terminal_table(title: str, rows: pd.DataFrame) -> Table:
    """Rows of one workload for a terminal of 80 columns; what none has, has no column.

    Args:
        title: of the table.
        rows: of one workload.
    """
    compared = bool(rows["ratio_to_baseline"].notna().any())
    sent = bool((rows["bytes_per_step"] > 0).any())
    several = rows.groupby(list(CURVE[:-1]))["precision"].nunique().max() > 1
    table = Table(
        title=title,
        title_justify="left",
        caption=_caption(rows, compared),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for head in ("engine", "path"):
        table.add_column(head, no_wrap=True)
    speeds = ("images\n/s", "ratio") if compared else ("images\n/s",)
    for head in ("B", "micro", *speeds, "s\n/step", "MFU\n%", "MiB", *["MB\nsent"] * sent):
        table.add_column(head, justify="right", no_wrap=True)
        if head in speeds:
            table.add_column("±%", justify="right", no_wrap=True, vertical="bottom")
    for _, same in rows.groupby(["engine", "ranks"], sort=False):
        first = same.iloc[0]
        name = first["engine"] if first["ranks"] == 1 else f"{first['engine']} ×{first['ranks']}"
        for row in same.to_dict("records"):
            path = f"{row['path']} {row['precision']}" if several else row["path"]
            table.add_row(name, path, *_cells(row, compared, sent))
            name = ""
        table.add_section()
    return table


def _cells(row: Mapping[Any, Any], compared: bool, sent: bool) -> list[str]:
    """What was measured, in the order of the columns."""
    cells = [f"{row['effective_batch']:,}", f"{row['micro_batch']}", number(row["images_per_s"])]
    cells.append(_spread(row, "images_per_s", "images_per_s"))
    if compared:
        cells += [number(row["ratio_to_baseline"]), _spread(row, "ratio_to_baseline", "ratio")]
    cells += [number(row["step_s"]), percent(row["mfu"], 0), number(row["peak_memory_mib"])]
    return cells + [number(row["bytes_per_step"] / 1e6)] * sent


def _spread(row: Mapping[Any, Any], name: str, ends: str) -> str:
    """Half of what lies between the smallest and the largest, in per cent of the median."""
    half = (row[f"{ends}_high"] - row[f"{ends}_low"]) / 2 / row[name]
    return f"±{percent(half, 0)}" if row["repetitions"] > 1 else ""


def _caption(rows: pd.DataFrame, compared: bool) -> str:
    few, many = rows["repetitions"].min(), rows["repetitions"].max()
    times = f"{few}" if few == many else f"{few} to {many}"
    said = [f"medians of {times} repetitions, ±: half of what lies between the extremes"]
    if compared:
        said.append("ratio: to the baseline's images/s in the same session and round")
    said.append(
        ", ".join(
            f"{path} in {' and '.join(sorted(set(same)))}"
            for path, same in rows.groupby("path", sort=False)["precision"]
        )
    )
    return "; ".join(said)


def _panel(axes: Axes, name: str, rows: pd.DataFrame) -> None:
    engines, ranks = _known(rows, "engine", ENGINES), sorted(rows["ranks"].unique())
    middle = (len(engines) - 1) / 2
    for _, curve in rows.groupby([*CURVE, "micro_batch"], sort=False):
        known, first = curve[curve[name] > 0], curve.iloc[0]
        apart = 2 ** (_APART * (engines.index(first["engine"]) - middle))
        x = known["effective_batch"] * apart
        style = _style(first, ranks.index(first["ranks"]), rows)
        axes.plot(x, known[name], **style)
        if name == "images_per_s":
            ends = known[["images_per_s_low", "images_per_s_high"]]
            axes.vlines(x, *ends.to_numpy().T, color=style["color"], lw=1)
    axes.set_title(_PANELS[name])
    axes.set_xlabel("effective batch B")
    log2_axis(axes, rows["effective_batch"])
    if name in _LOG:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        if high < _DECADES * low:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter("{x:,g}" if name != "bytes_per_step" else EngFormatter("B"))


def _style(curve: Any, rank: int, rows: pd.DataFrame) -> dict[str, Any]:
    colour = COLOURS[ENGINES.index(curve["engine"])]
    face = "w" if _hollow(rows, curve["precision"]) else colour
    look = {"color": colour, "ms": _size(rank), "lw": 1.6, "mec": colour, "mfc": face}
    return {**_STYLES[curve["path"]], **look}


def _size(rank: int) -> float:
    return 5.5 + 2 * rank


def _hollow(rows: pd.DataFrame, precision: str) -> bool:
    return precision == _HOLLOW and rows["precision"].nunique() > 1


def _key(rows: pd.DataFrame) -> Iterator[Any]:
    """What colours, lines and markers mean."""
    for engine in _known(rows, "engine", ENGINES):
        yield legend_entry(engine, color=COLOURS[ENGINES.index(engine)], ls="-", lw=3)
    for path in _known(rows, "path", tuple(reversed(PATHS))):
        words = f"{path} path" if path != "baseline" else path
        yield legend_entry(words, **_STYLES[path], ms=_size(0), lw=1.6)
    for rank, count in enumerate(sorted(rows["ranks"].unique())):
        words = f"{count} rank{'s' if count > 1 else ''}"
        yield legend_entry(words, marker="o", ms=_size(rank))
    if _hollow(rows, _HOLLOW):
        yield legend_entry(f"hollow: {_HOLLOW}", marker="o", ms=_size(0), mfc="w")


def _known(rows: pd.DataFrame, column: str, order: Sequence[str]) -> list[str]:
    return [name for name in order if name in set(rows[column])]
