"""Pictures of what protection does to images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bigbatch_ue.data.decoded import rows
from bigbatch_ue.files.atomic import atomic_file

ROWS = ("clean", "protected", "difference")


def examples(assignment: NDArray[np.int64], count: int) -> NDArray[np.int64]:
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
            axis.imshow(rows(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(f"{label}\n(x {factor:.1f})" if row == 2 else label, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
