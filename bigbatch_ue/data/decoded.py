"""Decoded data sets: a uint8 memory map that all ranks share, with labels and names.

A set is decoded into `<root>/decoded/<slug>-<size>-<stamp>/`, whole or not at all. The stamp is
made of the names, sizes and modification times of the source files, so that a changed source is
decoded again. What a run knows its images by is made of their contents instead, so that a copy is
the same data set. A share of the train images (`data.limit`) has a file of its own in the entry.
"""

import hashlib
import os
import re
import shutil
from collections import deque
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import DataConfig, TakeConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoding import decode_part, write_images
from bigbatch_ue.data.share import stratified_share
from bigbatch_ue.data.source import PARTS, Labels, Part, Pixels, Source
from bigbatch_ue.files.atomic import atomic_file, atomic_folder
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.hashing import digest_files
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.paths import composed, expand_path, hide_home, require_file
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.identity import DataIdentity, answer_digest
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError, first_of

META = "meta.json"
_DECODER, _FORMER_DECODER = 3, 1
"""Version of the decoder, to be raised when the same files give other pixels; and the first one."""
_DAMAGES = (UserError, FileNotFoundError, EOFError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class ImageSet:
    """The images of a part.

    Attributes:
        images: uint8 [N, C, H, W], a read-only memory map.
        labels: int64 [N].
        names: N names.
        positions: int64 [N], ascending indices into the part of the source.
    """

    images: Pixels
    labels: Labels
    names: list[str]
    positions: Labels

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> "ImageSet":
        """Return the first `count` images, or all if there are fewer, without a copy."""
        return ImageSet(
            self.images[:count], self.labels[:count], self.names[:count], self.positions[:count]
        )


@dataclass(frozen=True)
class DataSet:
    """A decoded data set.

    Attributes:
        name: `data.name` with the home folder as `~`, since it goes into files that may be
            published.
        identity: differs if the contents of files, size, decoder or limit differ.
        classes: name of each label.
        train: the train images, at most `data.limit`.
        test: the test images.
        available: number of train images without a limit.
        former: the data set as earlier versions made it, if they could: known by place and
            modification times, and with the first images instead of a share of each class.
    """

    name: str
    identity: DataIdentity
    classes: list[str]
    train: ImageSet
    test: ImageSet
    available: int
    former: "DataSet | None" = None

    @property
    def identities(self) -> list[DataIdentity]:
        """The identity of this data set, then that of the one that earlier versions made."""
        return [self.identity, *(self.former.identities if self.former else [])]

    def as_trained_on(self, config: Config, run: Run) -> "DataSet":
        """Return the version of this data set that a run of `config` knows.

        Raises:
            UserError: none; the images have changed.
        """
        if answer_digest(config, self.identity, run.weights) == run.answer:
            return self
        if self.former is None:
            raise UserError(f"{run.folder}: {self.name} has changed since this run; train again")
        return self.former.as_trained_on(config, run)

    @property
    def classes_without_train_image(self) -> list[str]:
        """How many classes no train image has, in a line; nothing if none."""
        absent = np.setdiff1d(np.arange(len(self.classes)), self.train.labels)
        if not len(absent):
            return []
        names = f"{len(absent)} of {counted(len(self.classes), 'class')} without a train image"
        return [f"{names}, such as {self.classes[absent[0]]}"]

    @property
    def beyond_limit(self) -> list[str]:
        """How many train images `data.limit` leaves out; nothing if none."""
        count = self.available - len(self.train)
        beyond = f"{counted(count, 'train image')} beyond data.limit={len(self.train)}"
        return [beyond] if count else []


def prepare_dataset(data: DataConfig, *, download: bool = False) -> DataSet:
    """Return the images of `data`, and say what is left out or changed.

    They are decoded unless another run or rank has done so.

    Raises:
        UserError: the source, or its decoded images, are not as they should be.
        OSError: `data.root` is full or cannot be written.
    """
    found, files = _open(data, download)
    if files or data.name.startswith("folder:"):
        _say(_inventory(data, found, files))
    return found


def dataset_of_run(config: Config, run: Run, *, download: bool = False) -> DataSet:
    """Return the images that `run` was trained on; what is left out was said in training.

    Raises:
        UserError: the images have changed, and as for `prepare_dataset`.
    """
    return _open(config.data, download)[0].as_trained_on(config, run)


def _open(data: DataConfig, download: bool) -> tuple[DataSet, list[str]]:
    """Open a data set, and list what is left out or changed, a line for each kind."""
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
    entry = decoded / f"{slug}-{data.size}-{digest([_DECODER, facts, *_chosen(data)])}"
    if not entry.is_dir():
        with locked(lock):
            if not entry.is_dir():
                _decode(source, data, entry)
    found, changes = _load(entry, data, digest([_FORMER_DECODER, facts]), lock)
    changes += found.classes_without_train_image
    _refuse_if_strict(data, changes)
    return found, [*left_out, *found.beyond_limit, *changes]


def _refuse_if_strict(data: DataConfig, files: list[str]) -> None:
    """Stop if files are left out, or taken only in part or converted, and `data.strict` is set."""
    if files and data.strict:
        raise UserError(
            f"{data.name}: {'; '.join(files)}; remove or convert them, or set data.strict=false"
        )


def _inventory(data: DataConfig, found: DataSet, files: list[str]) -> str:
    """Say how many images are taken, and what is left out or changed."""
    taken = f"{data.name}: {len(found.train):,} train and {counted(len(found.test), 'test image')}"
    return "\n  ".join([f"{taken}; left out or changed:", *files]) if files else taken


@cache
def _say(text: str) -> None:
    """Print a note once, however often the data set is opened."""
    note(text)


def _slug(name: str) -> str:
    """Make a file name for a data set, different for two paths with the same last part."""
    kind, _, place = name.partition(":")
    if not place:
        return re.sub(r"\W+", "_", kind)
    path = expand_path(place)
    if kind != "hf" or path.exists():
        path = path.resolve()
    stem = re.sub(r"[^-.\w]+", "_", path.stem)
    return f"{kind}-{stem}-{digest(str(path))}"


def _facts(source: Source) -> list[tuple[str, int, int]]:
    """Return the name, size and modification time of each file of `source`."""
    files = source.files()
    base = os.path.commonpath([file.parent for file in files]) if files else ""
    try:
        stats = [(file, file.stat()) for file in files]
    except FileNotFoundError:
        missing = [str(file) for file in files if not file.exists()]
        raise UserError(
            f"{first_of(missing)}: no such file, or a link to none; restore or remove it"
        ) from None
    return [(os.path.relpath(file, base), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _chosen(data: DataConfig) -> list[dict[str, str | None]]:
    """Return what is taken of the source, if that is not what is by default."""
    return [] if data.take == TakeConfig() else [data.take.model_dump()]


def _content(source: Source, data: DataConfig) -> str:
    """Return a digest of the names, sizes and bytes of the files of `source`, wherever they are.

    The name of a single file is left out. What is taken of the files belongs to it.
    """
    files = source.files()
    base = os.path.commonpath(files) if files else ""
    facts = [
        (Path(os.path.relpath(path, base)).as_posix(), path.stat().st_size, content)
        for path, content in zip(files, digest_files(files, "the source files"), strict=True)
    ]
    return digest([_FORMER_DECODER, facts, *_chosen(data)])


def _decode(source: Source, data: DataConfig, entry: Path) -> None:
    """Write `entry`; remove entries of an older source, and leftovers of killed processes."""
    if any(not folder.name.startswith(".") for folder in _others(entry)):
        note(f"{data.name}: source or decoder changed; decoding again", any_process=True)
    with atomic_folder(entry) as folder:
        names = {part: decode_part(source, part, data, folder) for part in PARTS}
        meta = {
            "source": hide_home(data.name),
            "content": _content(source, data),
            "changes": source.changes(),
            "decoded_otherwise": source.decoded_otherwise,
            "classes": source.classes,
            "names": names,
        }
        write_json(folder / META, meta)
    for folder in _others(entry):
        shutil.rmtree(folder)


def _others(entry: Path) -> list[Path]:
    """List the other folders of the set and size of `entry`; unfinished ones begin with a dot."""
    prefix = entry.name[: -len(digest(None))]
    return [
        path
        for path in entry.parent.iterdir()
        if path.name.removeprefix(".").startswith(prefix) and path != entry and path.is_dir()
    ]


def _load(
    entry: Path, data: DataConfig, former_stamp: str, lock: Path
) -> tuple[DataSet, list[str]]:
    """Load an entry, and what its decoding changed."""
    try:
        meta = read_json(entry / META, dict)
        content, changes = str(meta["content"]), [str(change) for change in meta["changes"]]
        decoded_otherwise = bool(meta["decoded_otherwise"])
        classes = [composed(str(name)) for name in meta["classes"]]
        whole, test = (_load_part(entry, part, meta, data.size) for part in PARTS)
    except _DAMAGES as error:
        raise _damaged(entry, error) from None
    identity, former_identity = [content, data.size], [former_stamp, data.size]
    train = first = whole
    if data.limit is not None and data.limit < len(whole):
        present = len(np.unique(whole.labels))
        if data.limit < present:
            raise UserError(
                f"data.limit={data.limit}: too few for an image of each of {present} classes; "
                f"use at least {present}"
            )
        train, first = _take_share(whole, data.limit, entry, lock), whole.first(data.limit)
        identity.append(hashlib.sha256(train.positions.tobytes()).hexdigest())
        former_identity.append(data.limit)
    name = hide_home(data.name)
    known_as = DataIdentity(data.name if data.has_name else None, digest(identity))
    found = DataSet(name, known_as, classes, train, test, available=len(whole))
    if decoded_otherwise:  # no earlier version trained on these pixels
        return found, changes
    former = replace(found, identity=DataIdentity(name, digest(former_identity)), train=first)
    return replace(found, former=former), changes


def _take_share(whole: ImageSet, count: int, entry: Path, lock: Path) -> ImageSet:
    """Return a stratified share of `whole`, in a file of its own that all ranks share."""
    positions = stratified_share(whole.labels, count)
    path, shape = entry / f"train_images-{count}.npy", (count, *whole.images.shape[1:])
    if not path.exists():
        with locked(lock):
            if not path.exists():
                with atomic_file(path) as file:
                    taken = (whole.images[index] for index in positions)
                    deque(write_images(file, taken, shape), maxlen=0)
    try:
        images = _load_images(path, shape)
    except _DAMAGES as error:
        raise _damaged(entry, error) from None
    names = [whole.names[index] for index in positions]
    return ImageSet(images, whole.labels[positions], names, positions)


def _damaged(entry: Path, error: Exception) -> UserError:
    return UserError(f"{entry}: damaged ({error}); delete that folder")


def _load_part(entry: Path, part: Part, meta: dict[str, Any], size: int) -> ImageSet:
    names = [str(name) for name in meta["names"][part]]
    images = _load_images(
        entry / f"{part}_images.npy", *((len(names), channels, size, size) for channels in (1, 3))
    )
    labels = np.load(require_file(entry / f"{part}_labels.npy"), allow_pickle=False)
    if labels.dtype != np.int64 or labels.shape != (len(names),):
        raise ValueError(f"{part}_labels.npy is {labels.dtype} {list(labels.shape)}")
    if not ((labels >= 0) & (labels < len(meta["classes"]))).all():
        raise ValueError(f"{part}_labels.npy has labels beyond the classes of meta.json")
    return ImageSet(images, labels, names, np.arange(len(names)))


def _load_images(path: Path, *shapes: tuple[int, ...]) -> Pixels:
    """Map an array of images, uint8 of one of `shapes`."""
    images: Pixels = np.load(require_file(path), mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.shape not in shapes:
        raise ValueError(f"{path.name} is {images.dtype} {list(images.shape)}")
    return images
