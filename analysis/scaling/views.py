"""Figures of a scaling table, and a table for the terminal."""

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
    create_panels,
    legend,
    legend_entry,
    log2_axis,
    write_figures,
)
from bigbatch_ue.config.names import MeasuredPath
from bigbatch_ue.reporting.words import counted, number, percent, slugs

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
_SHIFT = 0.06
"""Shift between neighbouring engines, in doublings of B."""
_MAX_RATIO = 50
"""Largest ratio of the ends of a logarithmic axis that has ticks at 1, 2 and 5."""


def plot_scaling(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a figure for each workload as PNG and SVG, the same bytes every time.

    The training of targets does not vary with B, and is in no figure.

    Args:
        table: result of `scaling_table`.
        folder: output folder.

    Returns:
        The paths.
    """
    titled = list(workloads(table[table["path"] != MeasuredPath.TARGET]))
    names = slugs(title for title, _ in titled)
    figures = [scaling_figure(title, rows) for title, rows in titled]
    return write_figures(dict(zip(names, figures, strict=True)), folder)


@mpl.rc_context(RC)
def scaling_figure(title: str, rows: pd.DataFrame) -> Figure:
    """Draw speed, time, memory and traffic against B; of several micro-batches, the fastest.

    The colour stands for the engine, line and marker for the path, the size of the marker for the
    number of ranks, and a hollow marker for float32 among other precisions. Engines are shifted a
    little. A line joins batches with the same micro-batch. A quantity that no row has, such as the
    traffic of a single rank, has no panel.

    Args:
        title: title of the figure.
        rows: rows of one workload.
    """
    rows = fastest(rows)
    panels = [name for name in _PANELS if (rows[name] > 0).any()]
    columns = 2 if len(panels) == 4 else len(panels)
    height = -(-len(panels) // columns)
    size = WIDTH * columns + 0.2, 2.9 * height + 1.3
    figure, grid = create_panels(*size, columns, [1.0] * height, shared_axes=False)
    for axes, name in zip(grid.flat, panels, strict=True):
        _draw_panel(axes, name, rows)
    figure.suptitle(title, weight="bold", size=11)
    legend(figure, list(_legend_entries(rows)), 2 * columns)
    return figure


def terminal_table(title: str, rows: pd.DataFrame) -> Table:
    """Return a table for a terminal of 80 columns; a quantity that no row has, has no column.

    Args:
        title: title of the table.
        rows: rows of one workload.
    """
    has_ratio = bool(rows["ratio_to_baseline"].notna().any())
    has_traffic = bool((rows["bytes_per_step"] > 0).any())
    has_precisions = rows.groupby(list(CURVE[:-1]))["precision"].nunique().max() > 1
    table = Table(
        title=title,
        title_justify="left",
        caption=_caption(rows, has_ratio),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for head in ("engine", "path"):
        table.add_column(head, no_wrap=True)
    speeds = ("images\n/s", "ratio") if has_ratio else ("images\n/s",)
    for head in ("B", "micro", *speeds, "s\n/step", "MFU\n%", "MiB", *["MB\nsent"] * has_traffic):
        table.add_column(head, justify="right", no_wrap=True)
        if head in speeds:
            table.add_column("±%", justify="right", no_wrap=True, vertical="bottom")
    for _, same in rows.groupby(["engine", "ranks"], sort=False):
        first = same.iloc[0]
        name = first["engine"] if first["ranks"] == 1 else f"{first['engine']} ×{first['ranks']}"
        for row in same.to_dict("records"):
            path = f"{row['path']} {row['precision']}" if has_precisions else row["path"]
            table.add_row(name, path, *_cells(row, has_ratio, has_traffic))
            name = ""
        table.add_section()
    return table


def _cells(row: Mapping[Any, Any], has_ratio: bool, has_traffic: bool) -> list[str]:
    """Return the measured values in the order of the columns."""
    cells = [f"{row['effective_batch']:,}", f"{row['micro_batch']}", number(row["images_per_s"])]
    cells.append(_spread(row, "images_per_s", "images_per_s"))
    if has_ratio:
        cells += [number(row["ratio_to_baseline"]), _spread(row, "ratio_to_baseline", "ratio")]
    cells += [number(row["step_s"]), percent(row["mfu"], 0), number(row["peak_memory_mib"])]
    return cells + [number(row["bytes_per_step"] / 1e6)] * has_traffic


def _spread(row: Mapping[Any, Any], name: str, ends: str) -> str:
    """Return half the range of the repetitions, in per cent of their median."""
    half = (row[f"{ends}_high"] - row[f"{ends}_low"]) / 2 / row[name]
    return f"±{percent(half, 0)}" if row["repetitions"] > 1 else ""


def _caption(rows: pd.DataFrame, has_ratio: bool) -> str:
    fewest, most = rows["repetitions"].min(), rows["repetitions"].max()
    least = "" if fewest == most else f"{fewest} to "
    parts = [f"medians of {least}{counted(most, 'repetition')}, ±: half their range"]
    if has_ratio:
        parts.append("ratio: images/s over those of the baseline in the same session and round")
    parts.append(
        ", ".join(
            f"{path} in {' and '.join(sorted(set(same)))}"
            for path, same in rows.groupby("path", sort=False)["precision"]
        )
    )
    return "; ".join(parts)


def _draw_panel(axes: Axes, name: str, rows: pd.DataFrame) -> None:
    engines, ranks = _present(rows, "engine", ENGINES), sorted(rows["ranks"].unique())
    middle = (len(engines) - 1) / 2
    for _, curve in rows.groupby([*CURVE, "micro_batch"], sort=False):
        measured, first = curve[curve[name] > 0], curve.iloc[0]
        shift = 2 ** (_SHIFT * (engines.index(first["engine"]) - middle))
        x = measured["effective_batch"] * shift
        style = _style(first, ranks.index(first["ranks"]), rows)
        axes.plot(x, measured[name], **style)
        if name == "images_per_s":
            ends = measured[["images_per_s_low", "images_per_s_high"]]
            axes.vlines(x, *ends.to_numpy().T, color=style["color"], lw=1)
    axes.set_title(_PANELS[name])
    axes.set_xlabel("effective batch B")
    log2_axis(axes, rows["effective_batch"])
    if name in _LOG:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        if high < _MAX_RATIO * low:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter("{x:,g}" if name != "bytes_per_step" else EngFormatter("B"))


def _style(curve: Any, rank: int, rows: pd.DataFrame) -> dict[str, Any]:
    colour = COLOURS[ENGINES.index(curve["engine"])]
    face = "w" if _is_hollow(rows, curve["precision"]) else colour
    common = {"color": colour, "ms": _marker_size(rank), "lw": 1.6, "mec": colour, "mfc": face}
    return {**_STYLES[curve["path"]], **common}


def _marker_size(rank: int) -> float:
    return 5.5 + 2 * rank


def _is_hollow(rows: pd.DataFrame, precision: str) -> bool:
    return precision == _HOLLOW and rows["precision"].nunique() > 1


def _legend_entries(rows: pd.DataFrame) -> Iterator[Any]:
    """Yield the meanings of colours, lines and markers."""
    for engine in _present(rows, "engine", ENGINES):
        yield legend_entry(engine, color=COLOURS[ENGINES.index(engine)], ls="-", lw=3)
    for path in _present(rows, "path", tuple(reversed(PATHS))):
        label = f"{path} path" if path != "baseline" else path
        yield legend_entry(label, **_STYLES[path], ms=_marker_size(0), lw=1.6)
    for rank, count in enumerate(sorted(rows["ranks"].unique())):
        label = counted(count, "rank")
        yield legend_entry(label, marker="o", ms=_marker_size(rank))
    if _is_hollow(rows, _HOLLOW):
        yield legend_entry(f"hollow: {_HOLLOW}", marker="o", ms=_marker_size(0), mfc="w")


def _present(rows: pd.DataFrame, column: str, order: Sequence[str]) -> list[str]:
    return [name for name in order if name in set(rows[column])]
