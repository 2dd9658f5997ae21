"""Charts of an evaluation, for the report and for TensorBoard."""

import base64
import io
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from bigbatch_ue.config.names import ArmName
from bigbatch_ue.data.source import to_hwc
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.reporting.statistics import Summary

COLOURS = {
    ArmName.CLEAN: "#009E73",
    ArmName.RANDOM_NOISE: "#56B4E9",
    ArmName.SHUFFLED: "#0072B2",
    ArmName.RANDOM_SURROGATE: "#CC79A7",
    ArmName.UNPROTECTED: "#E69F00",
    ArmName.UC: "#D55E00",
    ArmName.PROTECTED: "#D55E00",
}
"""Of the arms, after Okabe and Ito: told apart whatever one's colour vision."""

_STYLES = ("-", "--", "-.", ":")
_DPI = 170
_WIDEST = 1000
_WEBP = {"quality": 75, "method": 6}


class SeedCurves(NamedTuple):
    """Test accuracies by epoch of the seeds of one arm."""

    name: str
    arm: str
    runs: Sequence[Sequence[float]]


class ProtectionTrend(NamedTuple):
    """Final accuracy by the share of the images that are protected: (share, accuracy) by share."""

    name: str
    arm: str
    points: Sequence[tuple[float, Summary]]


def learning_curves(curves: Sequence[SeedCurves], chance: float) -> Figure:
    """Mean of the seeds by epoch, over a band from the least to the greatest."""
    figure, axes = _chart("epoch", chance)
    for curve, style in zip(curves, _styles([curve.arm for curve in curves]), strict=True):
        epochs = min(map(len, curve.runs))
        values = 100 * np.array([run[:epochs] for run in curve.runs])
        steps, colour = np.arange(1, epochs + 1), COLOURS[ArmName(curve.arm)]
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, lw=0)
        marker = "o" if epochs == 1 else None
        axes.plot(
            steps, values.mean(0), color=colour, ls=style, lw=1.8, marker=marker, label=curve.name
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def partial_protection(trends: Sequence[ProtectionTrend], chance: float) -> Figure:
    """Final accuracy, with its interval where there is one, by the share that is protected."""
    figure, axes = _chart("protected share of the train images, %", chance)
    styles = _styles([trend.arm for trend in trends])
    for place, (trend, style) in enumerate(zip(trends, styles, strict=True)):
        summaries = [summary for _, summary in trend.points]
        means = 100 * np.array([summary.mean for summary in summaries])
        lows, highs = (
            100
            * np.array([s.mean if (end := getattr(s, side)) is None else end for s in summaries])
            for side in ("low", "high")
        )
        axes.errorbar(
            [100 * share for share, _ in trend.points],
            means,
            yerr=(means - lows, highs - means),
            color=COLOURS[ArmName(trend.arm)],
            ls=style,
            lw=1.8,
            marker="o",
            markersize=max(9 - 3 * place, 4),
            capsize=3,
            label=trend.name,
        )
    _legend(figure)
    return figure


def confusion_matrix(confusion: Sequence[Sequence[int]]) -> Figure:
    """A heat map of the shares of each true class (rows) by predicted class."""
    figure = Figure(figsize=(3.6, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel="predicted class", ylabel="true class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(axes.imshow(row_fractions(confusion), cmap="Blues", vmin=0, vmax=1))
    return figure


def row_fractions(confusion: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Rows of counts as fractions of their sum; a class without images stays at 0."""
    counts = np.array(confusion, dtype=np.float64)
    sums = counts.sum(axis=1, keepdims=True)
    rows: NDArray[np.float64] = counts / np.maximum(sums, 1)
    return rows


def data_uri(figure: Figure) -> str:
    """A figure as a WebP picture in a `data:` URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=_DPI, pil_kwargs=_WEBP)
    return _uri(buffer)


def picture_uri(picture: Image.Image) -> str:
    """A picture, reduced if it is very wide, as WebP in a `data:` URI."""
    picture = picture.convert("RGB")
    picture.thumbnail((_WIDEST, _WIDEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", **_WEBP)
    return _uri(buffer)


def _uri(buffer: io.BytesIO) -> str:
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _chart(xlabel: str, chance: float) -> tuple[Figure, Axes]:
    """Axes of test accuracy, with the chance level; sized to be read on a phone as well."""
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel="test accuracy, %", ylim=(-2, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.axhline(100 * chance, color="0.35", ls=":", lw=1.2, label="chance")
    return figure, axes


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _styles(arms: Sequence[str]) -> list[str]:
    """A line style for each: lines of one arm, of one colour therefore, differ in it."""
    counters = {arm: count() for arm in arms}
    return [_STYLES[next(counters[arm]) % len(_STYLES)] for arm in arms]


ROWS = ("clean", "protected", "difference")


def first_of_each_group(assignment: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions of up to `count` images, the first of each cluster, cluster by cluster."""
    _, first = np.unique(assignment, return_index=True)
    return first[:count].astype(np.int64)


def picture_grid(
    path: Path,
    originals: NDArray[np.uint8],
    protected: NDArray[np.uint8],
    titles: Sequence[str],
    heading: str = "",
) -> None:
    """Write a PNG of clean images over protected ones over their amplified difference, atomically.

    Args:
        path: of the PNG.
        originals: uint8 [K, C, H, W], K of at least 1, C of 1 or 3.
        protected: the same images under their perturbations.
        titles: K of them, over the columns.
        heading: over the picture.
    """
    difference = protected.astype(np.float64) - originals
    largest = np.abs(difference).max()
    factor = 127.5 / max(largest, 1)
    shown = (originals, protected, np.rint(127.5 + factor * difference).astype(np.uint8))
    columns = len(originals)
    figure = Figure(figsize=(1.2 * columns + 1.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ROWS), columns, squeeze=False)
    for row, (label, images) in enumerate(zip(ROWS, shown, strict=True)):
        for column, image in enumerate(images):
            axis = axes[row, column]
            axis.imshow(to_hwc(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(f"{label}\n(x {factor:.1f})" if row == 2 else label, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
