"""Pictures of clean and protected images beside their difference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bigbatch_ue.data.source import to_hwc
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.reporting.style import FILE_DPI

ROWS = ("clean", "protected", "difference")


def first_of_each_group(assignment: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the positions of up to `count` images, the first of each cluster in their order."""
    _, first = np.unique(assignment, return_index=True)
    return first[:count].astype(np.int64)


def picture_grid(
    path: Path,
    originals: NDArray[np.uint8],
    protected: NDArray[np.uint8],
    titles: Sequence[str],
    heading: str = "",
) -> None:
    """Write a PNG atomically: clean images over protected ones over their amplified difference.

    Args:
        path: PNG file.
        originals: uint8 [K, C, H, W], K of at least 1, C of 1 or 3.
        protected: uint8 [K, C, H, W], the same images with their perturbations.
        titles: K titles, one over each column.
        heading: text over the picture.
    """
    difference = protected.astype(np.float64) - originals
    largest = np.abs(difference).max()
    factor = 127.5 / max(largest, 1)
    shown = (originals, protected, np.rint(127.5 + factor * difference).astype(np.uint8))
    columns = len(originals)
    figure = Figure(figsize=(1.2 * columns + 1.2, 4.4), dpi=FILE_DPI, layout="constrained")
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
