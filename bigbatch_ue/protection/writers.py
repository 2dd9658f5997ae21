"""Writers of a protected data set: a folder of PNG files, or one npz file."""

import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.data.image_files import decode
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import Part, Pixels, Source, to_hwc
from bigbatch_ue.files.paths import short_names
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError

FileFormat = Literal["png", "npz", "parquet", "wds"]
ImageSize = Literal["training", "original"]

_UNPROTECTED_KEYS = ("val_images", "val_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Originals:
    """The clean images of a data set, at training size or each at its original size."""

    source: Source
    data: DataSet
    size: ImageSize

    def images(self, part: Part) -> Iterator[Pixels]:
        """Return an iterator over the images of `part`, uint8 [C, h, w]."""
        taken: ImageSet = getattr(self.data, part)
        if self.size == "training":
            return iter(taken.images)
        return self.source.split(part).decode(taken.positions)


class Writer(Protocol):
    """The writer of one file format."""

    def __init__(self, originals: Originals) -> None: ...

    @property
    def originals(self) -> Originals:
        """The clean images of the data set."""

    def with_old_suffix(self) -> list[str]:
        """List the images that keep their old suffix before the new one, `x.jpg.png`."""

    def write(self, folder: Path, protected: Iterable[Pixels]) -> None:
        """Write the protected train images, uint8 [C, h, w], below `folder`."""

    def read(self, folder: Path) -> Iterator[Pixels]:
        """Return an iterator over the train images that `write` wrote, in the same order."""


@dataclass(frozen=True)
class PngWriter:
    """The train images as `train/<class>/<name>.png`."""

    originals: Originals

    def with_old_suffix(self) -> list[str]:
        """List the images whose names differ from those of others in the suffix alone."""
        data = self.originals.data
        written = map(PurePosixPath, png_names(data.train.names, data.train.labels, data.classes))
        pairs = zip(data.train.names, written, strict=True)
        return [name for name, path in pairs if keeps_old_suffix(PurePosixPath(name), path)]

    def write(self, folder: Path, protected: Iterable[Pixels]) -> None:
        """Write the protected train images below `folder`."""
        for path, image in zip(self._paths(folder), protected, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_hwc(image)).save(path, format="PNG")

    def read(self, folder: Path) -> Iterator[Pixels]:
        """Return an iterator over the written train images."""
        return (decode(path, self.originals.source.channels) for path in self._paths(folder))

    def _paths(self, folder: Path) -> Iterator[Path]:
        data = self.originals.data
        for name in png_names(data.train.names, data.train.labels, data.classes):
            yield folder / "train" / name


@dataclass(frozen=True)
class NpzWriter:
    """One npz file with MedMNIST's keys; all but the train images stay as they are."""

    originals: Originals

    def with_old_suffix(self) -> list[str]:
        """Return nothing: the images have no names."""
        return []

    def write(self, folder: Path, protected: Iterable[Pixels]) -> None:
        """Write the protected train images, and everything else of the data set."""
        data = self.originals.data
        with zipfile.ZipFile(self._path(folder), "w", zipfile.ZIP_DEFLATED) as archive:
            _add_images(archive, "train_images", protected, len(data.train))
            _add_array(archive, "train_labels", self._labels("train"))
            source = self.originals.source
            if isinstance(source, Npz) and self._has_size_of(source):
                _copy_unprotected(source.path, archive)
            else:
                _add_images(archive, "test_images", self.originals.images("test"), len(data.test))
                _add_array(archive, "test_labels", self._labels("test"))

    def read(self, folder: Path) -> Iterator[Pixels]:
        """Return an iterator over the written train images."""
        return Npz(self._path(folder)).split("train").images()

    def _path(self, folder: Path) -> Path:
        source, name = self.originals.source, short_names([self.originals.data.name])[0]
        return folder / f"{source.path.stem if isinstance(source, Npz) else name}.npz"

    def _labels(self, part: Part) -> NDArray[Any]:
        """Return the labels of `part` as [N, 1], in the dtype of the source."""
        labels = getattr(self.originals.data, part).labels[:, None]
        if isinstance(self.originals.source, Npz):
            labels = labels.astype(self.originals.source.label_type(part))
        return np.asarray(labels)

    def _has_size_of(self, source: Npz) -> bool:
        """Return whether the written images have the size of those in `source`."""
        training_size = self.originals.data.train.images.shape[2:]
        return self.originals.size == "original" or source.shape("train")[1:3] == training_size


def png_names(names: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Choose a path for each image as PNG: `<class>/<name>.png`, relative and all different.

    A name that contains a folder keeps it. The old suffix is dropped unless two names would then
    be the same.

    Args:
        names: N different image names, relative paths with `/`.
        labels: int64 [N] in 0 ... len(classes) - 1.
        classes: name of each label.

    Raises:
        UserError: a name leads out of the folder, or occurs twice.
    """
    folders = [re.sub(r"[/\\\0]", "_", name).strip(".") or "_" for name in classes]
    if len(set(folders)) < len(folders):
        folders = [f"{label} {folder}" for label, folder in enumerate(folders)]
    paths = []
    for name, label in zip(names, labels, strict=True):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise UserError(f"{name!r}: not a valid image name; rename the image in the source")
        paths.append(path if len(path.parts) > 1 else PurePosixPath(folders[label], path))
    commonest, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(f"{commonest}: {count} images have this name; rename them in the source")
    return distinct_png_names(paths)


def distinct_png_names(paths: Sequence[PurePosixPath]) -> list[str]:
    """Replace the suffix of each path by `.png`; where two would be the same, append it instead."""
    chosen = [str(path.with_suffix(".png")) for path in paths]
    with_suffix = [f"{path}.png" for path in paths]
    while len(set(chosen)) < len(chosen):
        uses = Counter(chosen)
        longer = [w if uses[c] > 1 else c for c, w in zip(chosen, with_suffix, strict=True)]
        if longer == chosen:
            return chosen
        chosen = longer
    return chosen


def keeps_old_suffix(name: PurePosixPath, written: PurePosixPath) -> bool:
    """Whether the old suffix stands before the new one, as in `x.jpg.png`."""
    return written.stem == name.name != name.stem


def describe_old_suffixes(names: Sequence[str]) -> list[str]:
    """Say how many images keep their old suffix, and which comes first; nothing if none does."""
    if not names:
        return []
    kept = counted(len(names), "image")
    return [f"{kept} with the old suffix kept, such as {names[0]}.png"]


def _copy_unprotected(source: Path, archive: zipfile.ZipFile) -> None:
    """Copy the arrays of an npz file that protection leaves alone."""
    with zipfile.ZipFile(source) as original:
        for key in _UNPROTECTED_KEYS:
            if f"{key}.npy" in original.namelist():
                with original.open(f"{key}.npy") as old, _open_entry(archive, key) as new:
                    shutil.copyfileobj(old, new, 2**20)


def _open_entry(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    """Open a new array of the archive for writing; as in numpy's files, its date is 1980."""
    return archive.open(f"{key}.npy", "w", force_zip64=True)


def _add_array(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    with _open_entry(archive, key) as entry:
        np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def _add_images(archive: zipfile.ZipFile, key: str, images: Iterable[Pixels], count: int) -> None:
    """Stream `count` images [C, h, w] into one array [count, h, w] or [count, h, w, 3]."""
    images = iter(images)
    first = to_hwc(next(images))
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)}
    with _open_entry(archive, key) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for pixels in chain([first], map(to_hwc, images)):
            if pixels.shape != first.shape:
                sizes = " and ".join("x".join(map(str, p.shape[:2])) for p in (first, pixels))
                raise UserError(
                    f"--form npz: all images need one size, but some are {sizes}; "
                    "use --form png or --at training"
                )
            entry.write(pixels.tobytes())
