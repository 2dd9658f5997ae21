"""Decoded data sets: a uint8 memory map that all ranks share, with labels and names.

A set is decoded into `<root>/decoded/<slug>-<size>-<stamp>/`, whole or not at all. The stamp is
made of the names, sizes and modification times of the source files, so that a changed source is
decoded again. What a run knows its images by is made of their contents instead, so that a copy is
the same data set.
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.source import PARTS, Labels, Part, Pixels, Source, to_hwc
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.paths import expand_path, hide_home, require_file
from bigbatch_ue.runs.identity import DataIdentity
from bigbatch_ue.runtime.console import note, progress_bar
from bigbatch_ue.runtime.errors import UserError

META = "meta.json"
_DECODER, _FORMER_DECODER = 2, 1
"""Version of the decoder, to be raised when the same files give other pixels; and the first one."""


@dataclass(frozen=True)
class ImageSet:
    """The images of a part.

    Attributes:
        images: uint8 [N, C, H, W], a read-only memory map.
        labels: int64 [N].
        names: N names.
    """

    images: Pixels
    labels: Labels
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> "ImageSet":
        """Return the first `count` images, or all if there are fewer, without a copy."""
        return ImageSet(self.images[:count], self.labels[:count], self.names[:count])


@dataclass(frozen=True)
class DataSet:
    """A decoded data set.

    Attributes:
        name: `data.name` with the home folder as `~`, since it goes into files that may be
            published.
        identity: differs if the contents of files, size, decoder or limit differ.
        former: its identity in earlier versions: by place and modification times.
        classes: name of each label.
        train: the train images, at most `data.limit`.
        test: the test images.
    """

    name: str
    identity: DataIdentity
    former: DataIdentity
    classes: list[str]
    train: ImageSet
    test: ImageSet


def prepare_dataset(data: DataConfig, *, download: bool = False) -> DataSet:
    """Return the images of `data`, decoding them unless another run or rank has done so.

    Raises:
        UserError: the source, or its decoded images, are not as they should be.
        OSError: `data.root` is full or cannot be written.
    """
    decoded = data.root / "decoded"
    slug = _slug(data.name)
    decoded.mkdir(parents=True, exist_ok=True)
    lock = decoded / f"{slug}.lock"
    if download:
        with locked(lock):
            source = open_source(data, download=True)
    else:
        source = open_source(data)
    left_out = source.left_out()
    _refuse_if_strict(data, left_out)
    facts = _facts(source)
    entry = decoded / f"{slug}-{data.size}-{digest([_DECODER, facts])}"
    if not entry.is_dir():
        with locked(lock):
            if not entry.is_dir():
                _decode(source, data, entry)
    found, changes = _load(entry, data, digest([_FORMER_DECODER, facts]))
    _refuse_if_strict(data, changes)
    if left_out or changes or data.name.startswith("folder:"):
        _say(_inventory(data, source, [*left_out, *changes]))
    return found


def _refuse_if_strict(data: DataConfig, files: list[str]) -> None:
    """Stop if files are left out, or taken only in part or converted, and `data.strict` is set."""
    if files and data.strict:
        raise UserError(
            f"{data.name}: {'; '.join(files)}; remove or convert them, or set data.strict=false"
        )


def _inventory(data: DataConfig, source: Source, files: list[str]) -> str:
    """Say how many images are taken, and what is left out or changed."""
    train, test = (f"{len(source.split(part).names):,} {part}" for part in PARTS)
    taken = f"{data.name}: {train} and {test} images"
    return "\n  ".join([f"{taken}; left out or changed:", *files]) if files else taken


@cache
def _say(text: str) -> None:
    """Print a note once, however often the data set is opened."""
    note(text)


def resize(image: Pixels, size: int) -> Pixels:
    """Resize an image uint8 [C, h, w] to [C, size, size], without regard to its aspect ratio."""
    channels, *shape = image.shape
    if shape == [size, size]:
        return image
    resized = Image.fromarray(to_hwc(image)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def _slug(name: str) -> str:
    """Make a file name for a data set, different for two paths with the same last part."""
    kind, _, place = name.partition(":")
    if not place:
        return re.sub(r"\W+", "_", kind)
    path = expand_path(place).resolve()
    return f"{kind}-{path.stem}-{digest(str(path))}"


def _facts(source: Source) -> list[tuple[str, int, int]]:
    """Return the name, size and modification time of each file of `source`."""
    files = source.files()
    base = os.path.commonpath([file.parent for file in files]) if files else ""
    try:
        stats = [(file, file.stat()) for file in files]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file") from None
    return [(os.path.relpath(file, base), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _content(source: Source) -> str:
    """Return a digest of the names, sizes and bytes of the files of `source`, wherever they are.

    The name of a single file is left out.
    """
    files = source.files()
    base = os.path.commonpath(files) if files else ""
    facts = []
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            facts.append((Path(os.path.relpath(path, base)).as_posix(), file.tell(), content))
    return digest([_FORMER_DECODER, facts])


def _decode(source: Source, data: DataConfig, entry: Path) -> None:
    """Write `entry`; remove entries of an older source, and leftovers of killed processes."""
    older = _siblings(entry)
    if any(not folder.name.startswith(".") for folder in older):
        note(f"{data.name}: source or decoder changed; decoding again", any_process=True)
    with atomic_folder(entry) as folder:
        names = {part: _decode_part(source, part, data, folder) for part in PARTS}
        meta = {
            "source": hide_home(data.name),
            "content": _content(source),
            "changes": source.changes(),
            "decoded_otherwise": source.decoded_otherwise,
            "classes": source.classes,
            "names": names,
        }
        write_json(folder / META, meta)
    for folder in older:
        shutil.rmtree(folder)


def _siblings(entry: Path) -> list[Path]:
    """List the folders of the same set and size as `entry`; unfinished ones begin with a dot."""
    prefix = entry.name[: -len(digest(None))]
    return [
        path
        for path in entry.parent.iterdir()
        if path.name.removeprefix(".").startswith(prefix) and path.is_dir()
    ]


def _decode_part(source: Source, part: Part, data: DataConfig, folder: Path) -> list[str]:
    """Write the images and labels of one part, and return its names.

    Images are appended to a plain file: a full disk then raises OSError, whereas writing to a
    memory map would end the process by a signal.
    """
    split = source.split(part)
    count = len(split.names)
    if count == 0:
        raise UserError(f"{data.name}: the {part} set contains no image; add at least one")
    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (count, source.channels, data.size, data.size),
    }
    description = f"decoding {data.name}: {part}"
    with (
        (folder / f"{part}_images.npy").open("wb") as file,
        progress_bar(transient=True) as progress,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for image in progress.track(split.images(), total=count, description=description):
            file.write(resize(image, data.size).tobytes())
    np.save(folder / f"{part}_labels.npy", split.labels, allow_pickle=False)
    return split.names


def _load(entry: Path, data: DataConfig, former_stamp: str) -> tuple[DataSet, list[str]]:
    """Load an entry, and what its decoding changed."""
    try:
        meta = read_json(entry / META, dict)
        content, changes = str(meta["content"]), [str(change) for change in meta["changes"]]
        decoded_otherwise = bool(meta["decoded_otherwise"])
        classes = [str(name) for name in meta["classes"]]
        train, test = (_load_part(entry, part, meta, data.size) for part in PARTS)
    except (UserError, FileNotFoundError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{entry}: damaged ({error}); delete that folder") from None
    share = [data.size]
    if data.limit is not None and data.limit < len(train):
        train = train.first(data.limit)
        share.append(data.limit)
    name = hide_home(data.name)
    identity = DataIdentity(data.name if data.has_name else None, digest([content, *share]))
    former = DataIdentity(name, digest([former_stamp, *share]))
    if decoded_otherwise:  # no earlier version trained on these pixels
        former = identity
    return DataSet(name, identity, former, classes, train, test), changes


def _load_part(entry: Path, part: Part, meta: dict[str, Any], size: int) -> ImageSet:
    images = np.load(require_file(entry / f"{part}_images.npy"), mmap_mode="r", allow_pickle=False)
    labels = np.load(require_file(entry / f"{part}_labels.npy"), allow_pickle=False)
    names = [str(name) for name in meta["names"][part]]
    expected = [(len(names), channels, size, size) for channels in (1, 3)]
    if images.dtype != np.uint8 or images.shape not in expected:
        raise ValueError(f"{part}_images.npy is {images.dtype} {list(images.shape)}")
    if labels.dtype != np.int64 or labels.shape != (len(names),):
        raise ValueError(f"{part}_labels.npy is {labels.dtype} {list(labels.shape)}")
    if not ((labels >= 0) & (labels < len(meta["classes"]))).all():
        raise ValueError(f"{part}_labels.npy has labels beyond the classes of meta.json")
    return ImageSet(images, labels, names)
