"""Data sets by name: scikit-learn's digits, MedMNIST, torchvision's, and the user's own files."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bigbatch_ue.config.names import DATASETS, MEDMNIST_2D
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.image_files import ImageFiles, open_folder
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import PARTS, Part, Source, Split
from bigbatch_ue.files.atomic import atomic_file, atomic_folder
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.runtime.errors import UserError

MEDMNIST_SIZES = (28, 64, 128, 224)
# torchvision's name of a data set: class, folder, train split, attribute that lists the images.
TORCHVISION = {
    "pets": ("OxfordIIITPet", "oxford-iiit-pet", "trainval", "_images"),
    "flowers102": ("Flowers102", "flowers-102", "train", "_image_files"),
}


class Digits:
    """scikit-learn's 1,797 handwritten digits, split into 1,437 + 360 once and for all."""

    classes: ClassVar[list[str]] = [str(digit) for digit in range(10)]
    channels = 1

    def files(self) -> list[Path]:
        """None: the images are part of scikit-learn."""
        return []

    def split(self, part: Part) -> Split:
        """A half, in the order of the original set, whose indices are the names."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        everything = np.arange(len(digits.target))
        halves = train_test_split(everything, test_size=360, stratify=digits.target, random_state=0)
        chosen = np.sort(halves[PARTS.index(part)])
        images = np.round(digits.images[chosen, None] * (255 / 16)).astype(np.uint8)
        labels = digits.target[chosen].astype(np.int64)
        return Split(labels, [f"{index:05d}" for index in chosen], lambda: iter(images))


@dataclass(frozen=True)
class MedMnist(Npz):
    """An official MedMNIST v2 file, whose md5 is checked before it is read."""

    flag: str
    size: int

    @cached_property
    def classes(self) -> list[str]:
        """MedMNIST's own names of the classes."""
        return list(medmnist_info(self.flag)["label"].values())

    def split(self, part: Part) -> Split:
        """A half, named by index."""
        expected = medmnist_info(self.flag)["MD5" + _suffix(self.size)]
        if self._md5 != expected:
            found = f"md5 {self._md5}, expected {expected}"
            raise UserError(f"{self.path}: {found}; remove that file, then add --download")
        return super().split(part)

    @cached_property
    def _md5(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()


def open_source(data: DataConfig, download: bool = False) -> Source:
    """The source that `data.name` and `data.size` mean; with `download`, fetched if it is missing.

    Raises:
        UserError: an unknown name, a size that does not exist, missing files, a failed download.
    """
    kind, _, place = data.name.partition(":")
    if data.name == "digits":
        return Digits()
    if data.name == "chestmnist":
        raise UserError("chestmnist is multi-label, but an image here has one class; take another")
    if data.name in MEDMNIST_2D:
        return _medmnist(data, download)
    if data.name in TORCHVISION:
        return _torchvision(data.name, data.root, download)
    if kind == "folder" and place:
        return open_folder(expand_path(place))
    if kind == "npz" and place:
        return Npz(expand_path(place))
    allowed = ", ".join((*DATASETS, "npz:PATH", "folder:PATH"))
    raise UserError(f"data.name={data.name!r}: unknown data set; allowed: {allowed}")


def _download(
    shelter: AbstractContextManager[Path], fetch: Callable[[Path], object], what: str
) -> None:
    """Let `fetch` fill the parent of what `shelter` yields, which then becomes the real thing."""
    with shelter as temporary:
        try:
            fetch(temporary.parent)
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            # medmnist replaces the reason by a page of advice.
            reason = error.__context__ or error
            raise UserError(f"download failed ({reason}); try again, or put {what}") from None


def medmnist_info(flag: str) -> dict[str, Any]:
    """What the medmnist package says of the data set `flag`."""
    from medmnist import INFO  # importing medmnist makes ~/.medmnist

    info: dict[str, Any] = INFO[flag]
    return info


def medmnist_file(root: Path, flag: str, size: int) -> Path:
    """Where the official file of the data set `flag` at `size` is kept."""
    return root / "medmnist" / f"{flag}{_suffix(size)}.npz"


def _suffix(size: int) -> str:
    return "" if size == MEDMNIST_SIZES[0] else f"_{size}"


def _medmnist(data: DataConfig, download: bool) -> MedMnist:
    flag, size = data.name, data.size
    if size not in MEDMNIST_SIZES:
        sizes = ", ".join(map(str, MEDMNIST_SIZES))
        raise UserError(f"data.size={size}: {flag} exists at sizes {sizes}")
    path = medmnist_file(data.root, flag, size)
    if not path.is_file():
        if not download:
            raise UserError(f"{path}: no such file; add --download, or put the file there")
        import medmnist

        info = medmnist_info(flag)
        make = partial(getattr(medmnist, info["python_class"]), "val", download=True, size=size)
        what = f"{info['url' + _suffix(size)]} at {path}"
        _download(atomic_file(path), lambda root: make(root=root), what)  # "val" is small
    return MedMnist(path, flag, size)


def _torchvision(name: str, root: Path, download: bool) -> ImageFiles:
    from torchvision import datasets

    kind, folder, train, images = TORCHVISION[name]
    base, make = root / folder, getattr(datasets, kind)
    if not base.is_dir():
        if not download:
            raise UserError(f"{base}: no such folder; add --download, or put {name} there")
        _download(atomic_folder(base), lambda root: make(root, download=True), f"{name} at {base}")
    try:
        halves: dict[Part, Any] = {"train": make(root, train), "test": make(root, "test")}
    except (RuntimeError, ValueError, OSError) as error:
        reason = f"not all of {name} ({error})"
        raise UserError(f"{base}: {reason}; remove that folder, then add --download") from None
    samples = {
        part: list(zip(getattr(half, images), half._labels, strict=True))
        for part, half in halves.items()
    }
    folders = {part: half._images_folder for part, half in halves.items()}
    return ImageFiles(list(halves["train"].classes), folders, samples)


class CatalogueEntry(NamedTuple):
    """What `bigbatch-ue datasets` says of one data set; `present`: some of its files are there."""

    name: str
    what: str
    channels: str
    sizes: str
    place: str
    present: bool


def catalogue(root: Path) -> list[CatalogueEntry]:
    """Every data set that `data.name` may mean, where its files go, and whether they are there."""
    pets, flowers = (root / TORCHVISION[name][1] for name in ("pets", "flowers102"))
    what_pets, what_flowers = "37 cats and dogs, 3,680 + 3,669", "102 flowers, 1,020 + 6,149"
    return [
        CatalogueEntry("digits", "10 digits, 1,437 + 360", "1", "8", "in scikit-learn", True),
        CatalogueEntry("pets", what_pets, "3", "any", str(pets), pets.is_dir()),
        CatalogueEntry("flowers102", what_flowers, "3", "any", str(flowers), flowers.is_dir()),
        *(_medmnist_entry(root, flag) for flag in MEDMNIST_2D if flag in DATASETS),
        CatalogueEntry(
            "npz:PATH", "your file with MedMNIST's keys", "1 or 3", "any", "PATH", False
        ),
        CatalogueEntry(
            "folder:PATH", "your images", "1 or 3", "any", "PATH/{train,test}/<class>/", False
        ),
    ]


def _medmnist_entry(root: Path, flag: str) -> CatalogueEntry:
    info = medmnist_info(flag)
    counts = info["n_samples"]
    what = f"{len(info['label'])} classes, {counts['train']:,} + {counts['test']:,}"
    files = [medmnist_file(root, flag, size) for size in MEDMNIST_SIZES]
    place = f"{files[0].parent}/"
    sizes = "/".join(map(str, MEDMNIST_SIZES))
    present = any(file.is_file() for file in files)
    return CatalogueEntry(flag, what, str(info["n_channels"]), sizes, place, present)
