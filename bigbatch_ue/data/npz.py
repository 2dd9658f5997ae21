"""Images in an npz file. The header of each array is checked before any memory is allocated."""

import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar

import numpy as np

from bigbatch_ue.data.source import PARTS, Labels, Part, Pixels, Split
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError

_MAX_PIXELS = 89_478_485
"""Maximum number of pixels of one image, the same as PIL's."""


@dataclass(frozen=True)
class Npz:
    """An npz file with MedMNIST's keys; its images are streamed, never all in memory."""

    path: Path
    decoded_otherwise: ClassVar[bool] = False

    @cached_property
    def classes(self) -> list[str]:
        """Numbers from 0 to the largest label."""
        largest = max(int(self._labels(part).max()) for part in PARTS)
        if largest >= self.shape("train")[0]:
            raise UserError(f"{self.path}: label {largest} is too large; number the classes from 0")
        return [str(label) for label in range(largest + 1)]

    @cached_property
    def channels(self) -> int:
        """Number of channels of both image arrays, 1 or 3."""
        train, test = (self.shape(part)[-1] for part in PARTS)
        if train != test:
            raise UserError(
                f"{self.path}: 'train_images' has {counted(train, 'channel')}, 'test_images' "
                f"{test}; make them equal"
            )
        return train

    def files(self) -> list[Path]:
        """Return the file."""
        return [self.path]

    def left_out(self) -> list[str]:
        """Say which arrays are left out."""
        known = {f"{part}_{what}.npy" for part in PARTS for what in ("images", "labels")}
        try:
            with zipfile.ZipFile(require_file(self.path)) as archive:
                others = [name for name in archive.namelist() if name not in known]
        except (zipfile.BadZipFile, OSError):  # whoever reads an array says what is wrong
            return []
        names = ", ".join(name.removesuffix(".npy") for name in others)
        return [f"{counted(len(others), 'unused array')}: {names}"] if others else []

    def changes(self) -> list[str]:
        """Return nothing: arrays are taken as they are."""
        return []

    def split(self, part: Part) -> Split:
        """Return the train or test part, whose images are named by index."""
        labels = self._labels(part)
        digits = max(5, len(str(len(labels) - 1)))
        names = [f"{index:0{digits}d}" for index in range(len(labels))]
        return Split(labels, names, lambda indices: self.images(part, indices))

    def shape(self, part: Part) -> tuple[int, ...]:
        """Return [N, h, w, C] of an image array, after a check of all but its pixels."""
        key = f"{part}_images"
        with _open_array(self.path, key) as (stream, size):
            shape, _, dtype = _read_header(stream, size)
        if dtype != np.uint8:
            raise UserError(f"{self.path}: {key!r} is {dtype}, expected uint8")
        shape = (*shape, 1) if len(shape) == 3 else shape
        if len(shape) != 4 or 0 in shape or shape[-1] not in (1, 3):
            expected = "at least one image as [N, h, w] or [N, h, w, C] with C of 1 or 3"
            raise UserError(f"{self.path}: {key!r} has shape {list(shape)}, expected {expected}")
        if math.prod(shape[1:3]) > _MAX_PIXELS:
            raise UserError(f"{self.path}: {key!r} has images of more than {_MAX_PIXELS:,} pixels")
        return shape

    def label_type(self, part: Part) -> np.dtype[Any]:
        """Return the dtype of the labels in the file."""
        with _open_array(self.path, f"{part}_labels") as (stream, size):
            return _read_header(stream, size)[2]

    def _labels(self, part: Part) -> Labels:
        key, count = f"{part}_labels", self.shape(part)[0]
        with _open_array(self.path, key) as (stream, size):
            shape, _, dtype = _read_header(stream, size)
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
            raise UserError(f"{self.path}: {key!r} contains {labels.max()}, which is too large")
        return labels.astype(np.int64)

    def images(self, part: Part, indices: Iterable[int]) -> Iterator[Pixels]:
        """Yield the images of a part at ascending indices; its labels are not read."""
        key, (count, *shape) = f"{part}_images", self.shape(part)
        with _open_array(self.path, key) as (stream, size):
            _, fortran_order, _ = _read_header(stream, size)
            if fortran_order:  # each image is scattered over the whole array
                with TemporaryFile() as file:
                    shutil.copyfileobj(stream, file)
                    whole = np.memmap(file, np.uint8, "r", shape=(count, *shape), order="F")
                    images = whole.transpose(0, 3, 1, 2)
                    yield from (np.asarray(images[index]) for index in indices)
                return
            length, position = math.prod(shape), 0
            for index in indices:
                if index > position:
                    stream.seek((int(index) - position) * length, os.SEEK_CUR)
                pixels, position = stream.read(length), int(index) + 1
                yield np.frombuffer(pixels, np.uint8).reshape(shape).transpose(2, 0, 1)


@contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open one array of an npz file: yields its bytes, and their number by the archive's index.

    Raises:
        UserError: anything that is wrong with the file, also while it is read.
    """
    try:
        with zipfile.ZipFile(require_file(path)) as archive, archive.open(f"{key}.npy") as stream:
            yield stream, archive.getinfo(f"{key}.npy").file_size
    except KeyError:
        raise UserError(f"{path}: contains no array {key!r}; use MedMNIST's keys") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"{path}: {key!r} cannot be read ({error}); write it with numpy.savez"
        ) from None


def _read_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape, whether it is in Fortran order, and the dtype of an array.

    Raises:
        ValueError: invalid header, or an array that does not have `size` bytes. Memory may
            therefore be allocated by the shape.
    """
    version_1 = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if version_1 else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or expected != size:
        raise ValueError(f"its shape {list(shape)} does not match its {size:,} bytes")
    return shape, fortran_order, dtype
