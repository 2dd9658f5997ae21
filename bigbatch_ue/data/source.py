"""What a source of images is: it lists its files and yields its images in their original size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = Literal["train", "test"]

PARTS: tuple[Part, Part] = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Half of a source: `labels` int64 [N], N `names`, and a function that decodes the images.

    It yields N arrays, uint8 [C, h, w] of the original sizes, to be read only.
    """

    labels: NDArray[np.int64]
    names: list[str]
    images: Callable[[], Iterator[Pixels]]


class Source(Protocol):
    """A data set as it lies on disk; a file that is not as it should be is a `UserError`."""

    @property
    def classes(self) -> list[str]:
        """The name of each label."""

    @property
    def channels(self) -> int:
        """1 if every image of both splits is grey, else 3."""

    def files(self) -> list[Path]:
        """Every file that images come from, in a fixed order."""

    def split(self, part: Part) -> Split:
        """The train or test half."""


def to_hwc(image: Pixels) -> Pixels:
    """An image [C, h, w] as pictures have it, contiguous: [h, w], or [h, w, 3] in colour."""
    return image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
