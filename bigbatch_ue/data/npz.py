"""Images in an npz file: every array is checked by its header before memory is taken for it."""

import math
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.data.source import PARTS, Part, Pixels, Split
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError

_MOST_PIXELS = 89_478_485  # of one image, as PIL has it


@dataclass(frozen=True)
class Npz:
    """One npz file at `path` with MedMNIST's keys; images are streamed, never all in memory."""

    path: Path

    @cached_property
    def classes(self) -> list[str]:
        """The numbers from 0 to the largest label."""
        largest = max(int(self._labels(part).max()) for part in PARTS)
        if largest >= self.shape("train")[0]:
            raise UserError(f"{self.path}: label {largest} is too large; classes count from 0")
        return [str(label) for label in range(largest + 1)]

    @cached_property
    def channels(self) -> int:
        """1 or 3, as both image arrays say."""
        train, test = (self.shape(part)[-1] for part in PARTS)
        if train != test:
            raise UserError(f"{self.path}: 'train_images' has C = {train}, 'test_images' {test}")
        return train

    def files(self) -> list[Path]:
        """The file."""
        return [self.path]

    def split(self, part: Part) -> Split:
        """A half, named by index."""
        labels = self._labels(part)
        digits = max(5, len(str(len(labels) - 1)))
        names = [f"{index:0{digits}d}" for index in range(len(labels))]
        return Split(labels, names, lambda: self.images(part))

    def shape(self, part: Part) -> tuple[int, ...]:
        """[N, h, w, C] of the image array, of which everything but the pixels is checked."""
        key = f"{part}_images"
        with _array(self.path, key) as (stream, size):
            shape, _, dtype = _header(stream, size)
        if dtype != np.uint8:
            raise UserError(f"{self.path}: {key!r} is {dtype}, expected uint8")
        shape = (*shape, 1) if len(shape) == 3 else shape
        if len(shape) != 4 or 0 in shape or shape[-1] not in (1, 3):
            wanted = "at least one image as [N, h, w] or [N, h, w, C] with C of 1 or 3"
            raise UserError(f"{self.path}: {key!r} has shape {list(shape)}, expected {wanted}")
        if math.prod(shape[1:3]) > _MOST_PIXELS:
            raise UserError(f"{self.path}: {key!r} has images of more than {_MOST_PIXELS:,} pixels")
        return shape

    def label_type(self, part: Part) -> np.dtype[Any]:
        """The dtype of the labels as the file has them."""
        with _array(self.path, f"{part}_labels") as (stream, size):
            return _header(stream, size)[2]

    def _labels(self, part: Part) -> NDArray[np.int64]:
        key, count = f"{part}_labels", self.shape(part)[0]
        with _array(self.path, key) as (stream, size):
            shape, _, dtype = _header(stream, size)
            if dtype.kind not in "iu":
                raise UserError(f"{self.path}: {key!r} is {dtype}, expected integers from 0 on")
            if len(shape) == 2 and shape[1] > 1:
                raise UserError(f"{self.path}: {key!r} is multi-label; give each image one class")
            if shape not in ((count,), (count, 1)):
                raise UserError(f"{self.path}: {key!r} has shape {list(shape)}, expected [{count}]")
            labels = np.frombuffer(stream.read(), dtype)
        if labels.min() < 0:
            raise UserError(f"{self.path}: {key!r} is {dtype}, expected integers from 0 on")
        if labels.max() > np.iinfo(np.int64).max:
            raise UserError(f"{self.path}: {key!r} holds {labels.max()}, which is too large")
        return labels.astype(np.int64)

    def images(self, part: Part) -> Iterator[Pixels]:
        """The images of a half, whether or not it has labels; as those of a `Split`."""
        key, (count, *shape) = f"{part}_images", self.shape(part)
        with _array(self.path, key) as (stream, size):
            _, fortran_order, _ = _header(stream, size)
            if fortran_order:  # one image is scattered over the whole array
                with TemporaryFile() as file:
                    shutil.copyfileobj(stream, file)
                    whole = np.memmap(file, np.uint8, "r", shape=(count, *shape), order="F")
                    yield from map(np.asarray, whole.transpose(0, 3, 1, 2))
                return
            for _ in range(count):
                pixels = stream.read(int(np.prod(shape)))
                yield np.frombuffer(pixels, np.uint8).reshape(shape).transpose(2, 0, 1)


@contextmanager
def _array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of one array of an npz file, and how many it says there are.

    Whatever is wrong with them is a `UserError`.
    """
    try:
        with zipfile.ZipFile(require_file(path)) as archive, archive.open(f"{key}.npy") as stream:
            yield stream, archive.getinfo(f"{key}.npy").file_size
    except KeyError:
        raise UserError(f"{path}: holds no array {key!r}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: {key!r} is not readable ({error})") from None


def _header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype of the array that `stream` of `size` bytes holds.

    Raises:
        ValueError: no such array, or one of other than `size` bytes: what takes memory by its shape
            relies on this.
    """
    first = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    wanted = stream.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or wanted != size:
        raise ValueError(f"its shape {list(shape)} is not that of its {size:,} bytes")
    return shape, fortran_order, dtype
