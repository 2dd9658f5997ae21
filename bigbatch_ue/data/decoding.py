"""Decoding of the images of a source to one size, into an array on disk."""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.source import Part, Pixels, Source, Split, to_hwc
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.processes import in_processes, process_count
from bigbatch_ue.runtime.progress import progress

_LONG = 10.0
"""Seconds of decoding beyond which its speed is said."""


def decode_part(source: Source, part: Part, data: DataConfig, folder: Path) -> list[str]:
    """Write the images and labels of one part into `folder`, and return its names.

    Raises:
        UserError: there is no image, or some cannot be read.
    """
    split = source.split(part)
    count = len(split.names)
    if count == 0:
        raise UserError(f"{data.name}: the {part} set contains no image; add at least one")
    shape = (count, source.channels, data.size, data.size)
    path, began = folder / f"{part}_images.npy", time.monotonic()
    with progress(f"decoding {data.name}: {part}", "images", count, any_process=True) as stage:
        for done in _write_decoded(path, split, shape):
            stage.advance(done)
    seconds = time.monotonic() - began
    if seconds > _LONG:
        processes = process_count(count) if split.at else 1
        note(
            f"{data.name}: {counted(count, f'{part} image')} decoded by "
            f"{counted(processes, 'process')} in {seconds:,.0f} s, {count / seconds:,.0f} images/s"
        )
    np.save(folder / f"{part}_labels.npy", split.labels, allow_pickle=False)
    return split.names


def _write_decoded(path: Path, split: Split, shape: tuple[int, ...]) -> Iterator[int]:
    """Write the resized images of a part, uint8 `shape`; yield the number of each few of them."""
    at, size = split.at, shape[-1]
    if at is None:
        yield from write_images(path, (resize(image, size) for image in split.images()), shape)
        return
    with path.open("wb") as new:
        start = _write_header(new, shape)

    def write(indices: range) -> None:
        with path.open("r+b") as file:
            file.seek(start + indices.start * math.prod(shape[1:]))
            for index in indices:
                file.write(resize(at(index), size).tobytes())

    with split.naming_all():
        for indices, _ in in_processes(write, shape[0]):
            yield len(indices)


def write_images(path: Path, images: Iterable[Pixels], shape: tuple[int, ...]) -> Iterator[int]:
    """Write an array of images, uint8 `shape`; yield 1 after each.

    They are appended to a plain file: a full disk then raises OSError, whereas writing to a memory
    map would end the process by a signal.
    """
    with path.open("wb") as file:
        _write_header(file, shape)
        for image in images:
            file.write(image.tobytes())
            yield 1


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the header of an array uint8 `shape`, and return its length."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def resize(image: Pixels, size: int) -> Pixels:
    """Resize an image uint8 [C, h, w] to [C, size, size], without regard to its aspect ratio."""
    channels, *shape = image.shape
    if shape == [size, size]:
        return image
    resized = Image.fromarray(to_hwc(image)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)
