"""The figure of a run: its losses, learning rate, noise scale and perturbations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runs.metrics_file import Steps
from bigbatch_ue.runtime.errors import UserError

_NOISE = {"delta": "noise scale of the pixels", "parameters": "noise scale of the networks"}
_ONE, _ALL = "#56B4E9", "#0072B2"
"""Colours of single generators and of all together, from the palette of Okabe and Ito."""
_COLUMNS = 3
_PANEL = (3.6, 2.9)
"""Width and height of a panel, in inches."""


def training_figure(heading: str, batch: int, parts: Sequence[Steps], deltas: Path) -> Figure:
    """Draw a run: a panel each for losses, learning rate, noise scales and perturbations.

    Args:
        heading: text over the figure.
        batch: effective batch, for comparison with the noise scale.
        parts: the steps of each rank group, which trained its own generators.
        deltas: safetensors file with `perturbations`, float32 [p, C, H, W].

    Raises:
        UserError: the file of perturbations is missing or damaged.
    """
    perturbations = _read_perturbations(deltas)
    spaces = [space for space in _NOISE if any(space in part.noise for part in parts)]
    rows = 1 + math.ceil(len(spaces) / _COLUMNS)
    size = (_PANEL[0] * _COLUMNS, _PANEL[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    losses, lr, pictures, *below = figure.subplots(rows, _COLUMNS).flat
    noises = below[: len(spaces)]
    for empty in below[len(spaces) :]:
        empty.set_visible(False)
    _draw_generators(losses, parts, [part.losses for part in parts])
    mean = np.hstack([part.losses for part in parts]).mean(axis=1)
    losses.plot(parts[0].number, mean, color=_ALL, lw=1.8, label="mean")
    losses.set_title("loss of the generators")
    lr.plot(parts[0].number, parts[0].lr, color=_ALL)
    lr.set_title("learning rate")
    lr.set_ylim(bottom=0)
    for axes, space in zip(noises, spaces, strict=True):
        known = [part for part in parts if space in part.noise]
        _draw_generators(axes, known, [part.noise[space] for part in known])
        axes.axhline(batch, color="0.35", ls=":", label="B")
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlim=losses.get_xlim(), ylabel="images")
        axes.set_title(_NOISE[space])
    for axes in (losses, lr, *noises):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
    for axes in (losses, *noises):
        axes.legend(frameon=False, fontsize=8)
    _draw_perturbations(pictures, perturbations)
    figure.suptitle(heading)
    return figure


def _draw_generators(
    axes: Axes, parts: Sequence[Steps], values: Sequence[NDArray[np.float64]]
) -> None:
    """Draw a line for each generator, float64 [T, p] for each part, through its known steps."""
    for part, own in zip(parts, values, strict=True):
        known = np.isfinite(own).any(axis=1)
        style: dict[str, Any] = {"marker": "" if known.all() else ".", "color": _ONE, "lw": 0.9}
        lines = axes.plot(part.number[known], own[known], **style)
        lines[0].set_label("one generator" if part is parts[0] else None)


def _draw_perturbations(axes: Axes, deltas: NDArray[np.float32]) -> None:
    """Draw all perturbations, [p, C, H, W], as tiles of one picture; grey is no change."""
    count, channels, height, width = deltas.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tiles = np.full((rows * columns, height + 1, width + 1, channels), 0.5)
    shown = (deltas / max(float(np.abs(deltas).max()), 1e-12) + 1) / 2
    tiles[:count, :height, :width] = shown.transpose(0, 2, 3, 1)
    grid = tiles.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    mosaic = grid.reshape(rows * (height + 1), columns * (width + 1), channels)
    mosaic = np.repeat(mosaic, 3, axis=2) if channels == 1 else mosaic
    axes.imshow(mosaic[:-1, :-1], interpolation="nearest")
    axes.set_axis_off()
    axes.set_title("perturbations, amplified")


def _read_perturbations(path: Path) -> NDArray[np.float32]:
    """Read the perturbations, float32 [p, C, H, W], without torch."""
    try:
        with safe_open(require_file(path), framework="np") as file:
            deltas: NDArray[np.float32] = file.get_tensor("perturbations")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); train again") from None
    return deltas
