"""The protocol of a source of images: its files, and its images in their original size."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
    """The train or test part of a source.

    Attributes:
        labels: int64 [N].
        names: N different names.
        decode: decodes the images at ascending indices, and yields for each an array uint8
            [C, h, w] of the original size, which must not be written to.
        at: decodes the image at an index like `decode`, in whichever process and order; None if
            the images are only read one after another.
        naming_all: context for `at`, in which the error of one unreadable image becomes an error
            that names all of them.
    """

    labels: Labels
    names: list[str]
    decode: Callable[[Iterable[int]], Iterator[Pixels]]
    at: Callable[[int], Pixels] | None = None
    naming_all: Callable[[], AbstractContextManager[None]] = nullcontext

    def images(self) -> Iterator[Pixels]:
        """Decode all images; see `decode`."""
        return self.decode(range(len(self.names)))


class Source(Protocol):
    """A data set on disk. A file that is not as it should be raises `UserError`."""

    @property
    def classes(self) -> list[str]:
        """Name of each label."""

    @property
    def channels(self) -> int:
        """1 if every image of both parts is grey, else 3."""

    def files(self) -> list[Path]:
        """Return all files with images, in a fixed order."""

    def left_out(self) -> list[str]:
        """Say which files or arrays at its place are left out, a line for each reason."""

    def changes(self) -> list[str]:
        """Say what of its images is left out or converted, a line for each kind."""

    @property
    def decoded_otherwise(self) -> bool:
        """Whether earlier versions decoded an image in another way."""

    def split(self, part: Part) -> Split:
        """Return the train or test part."""


def to_hwc(image: Pixels) -> Pixels:
    """Convert an image [C, h, w] to [h, w] if grey, else [h, w, 3], as PIL needs it."""
    return image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
