"""Data sets by name: scikit-learn's digits, MedMNIST, torchvision's, and the user's files."""

import importlib.util
import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bigbatch_ue.config.names import DATASETS, KIND_OF_SUFFIX, MEDMNIST_2D
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.class_folders import class_folders, open_folder
from bigbatch_ue.data.encoded import EncodedImages, files_of_parts
from bigbatch_ue.data.hub import open_hub
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.parquet import open_parquet
from bigbatch_ue.data.shards import find_shards
from bigbatch_ue.data.source import PARTS, Part, Source, Split
from bigbatch_ue.data.tars import TAR, open_tars
from bigbatch_ue.files.atomic import atomic_file, atomic_folder
from bigbatch_ue.files.hashing import digest_files
from bigbatch_ue.files.paths import expand_path, require_file
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import growth

MEDMNIST_SIZES = (28, 64, 128, 224)
PLACES = ("npz:PATH", "folder:PATH", "parquet:PATH", "hf:NAME", "wds:PATTERN")
"""What `data.name` may be but a name."""
TORCHVISION = {
    "pets": ("OxfordIIITPet", "oxford-iiit-pet", "trainval", "_images"),
    "flowers102": ("Flowers102", "flowers-102", "train", "_image_files"),
}
"""torchvision's class, folder, train split, and attribute with the image files, by name."""


class Digits:
    """The 1,797 handwritten digits of scikit-learn, in a fixed split into 1,437 + 360."""

    classes: ClassVar[list[str]] = [str(digit) for digit in range(10)]
    channels = 1
    decoded_otherwise = False

    def files(self) -> list[Path]:
        """Return nothing: the images are part of scikit-learn."""
        return []

    def left_out(self) -> list[str]:
        """Return nothing."""
        return []

    def changes(self) -> list[str]:
        """Return nothing."""
        return []

    def split(self, part: Part) -> Split:
        """Return the train or test part, named by and in the order of the original indices."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        indices = np.arange(len(digits.target))
        parts = train_test_split(indices, test_size=360, stratify=digits.target, random_state=0)
        own = np.sort(parts[PARTS.index(part)])
        images = np.round(digits.images[own, None] * (255 / 16)).astype(np.uint8)
        labels = digits.target[own].astype(np.int64)
        names = [f"{index:05d}" for index in own]
        return Split(labels, names, lambda indices: (images[index] for index in indices))


@dataclass(frozen=True)
class MedMnist(Npz):
    """An official MedMNIST v2 file, whose MD5 is checked before it is read."""

    flag: str
    size: int

    @cached_property
    def classes(self) -> list[str]:
        """MedMNIST's names of the classes."""
        return list(medmnist_info(self.flag)["label"].values())

    def left_out(self) -> list[str]:
        """Return nothing: that the official file has a validation part is known."""
        return []

    def split(self, part: Part) -> Split:
        """Return the train or test part, whose images are named by index."""
        expected = medmnist_info(self.flag)["MD5" + _suffix(self.size)]
        if self._md5 != expected:
            raise UserError(
                f"{self.path}: its MD5 is {self._md5}, expected {expected}; "
                "remove that file, then add --download"
            )
        return super().split(part)

    @cached_property
    def _md5(self) -> str:
        (md5,) = digest_files([require_file(self.path)], self.path.name, "md5")
        return md5


def open_source(data: DataConfig, download: bool = False) -> Source:
    """Open the source of `data.name` and `data.size`; with `download`, fetch it if it is missing.

    Raises:
        UserError: an unknown name, a size that does not exist, missing files, or a failed download.
    """
    kind, _, place = data.name.partition(":")
    if data.name == "digits":
        return Digits()
    if data.name == "chestmnist":
        raise UserError(
            "data.name=chestmnist: multi-label, but each image must have one class; "
            "choose another data set"
        )
    if data.name in MEDMNIST_2D:
        return _medmnist(data, download)
    if data.name in TORCHVISION:
        return _torchvision(data.name, data.root, download)
    if kind == "folder" and place:
        return open_folder(_require_place(data))
    if kind == "npz" and place:
        return Npz(_require_place(data))
    if kind == "parquet" and place:
        return open_parquet(place, data.take)
    if kind == "wds" and place:
        return open_tars(place, data.take)
    if kind == "hf" and place:
        return open_hub(place, data.take, download)
    if expand_path(data.name).exists():
        kind = KIND_OF_SUFFIX.get(expand_path(data.name).suffix, "folder")
        raise UserError(f"{data.name}: a place needs its kind; write {kind}:{data.name}")
    allowed = ", ".join((*DATASETS, *PLACES))
    raise UserError(f"data.name={data.name!r}: unknown data set; allowed: {allowed}")


def require_source(data: DataConfig, *, download: bool = False) -> None:
    """Check that the images of `data` are where they should be, as far as that takes no time.

    Args:
        data: the data set.
        download: whether a data set that is missing will be fetched.

    Raises:
        UserError: an unknown name, a size that does not exist, or a missing folder or file.
    """
    kind, _, place = data.name.partition(":")
    if kind == "folder" and place:
        class_folders(_require_place(data))  # there may be millions of files in these
    elif kind == "wds" and place:
        find_shards(place, TAR, data.take)  # and of images in these
    elif not (download and (data.has_name or kind == "hf")):
        open_source(data)


def _require_place(data: DataConfig) -> Path:
    """Return the path in `data.name`, which must exist."""
    kind, _, place = data.name.partition(":")
    path, what = expand_path(place), "folder" if kind == "folder" else "file"
    if not path.exists():
        raise UserError(f"data.name={data.name}: no such {what}; check the path")
    if kind == "folder" and path.is_file():
        raise UserError(f"data.name={data.name}: a file; name the folder of train/ and test/")
    return path


def _download(
    target: AbstractContextManager[Path], fetch: Callable[[Path], object], path: Path, what: str
) -> None:
    """Download a data set atomically.

    Args:
        target: yields the temporary file or folder that becomes `path`.
        fetch: downloads into a folder, the parent of the temporary file or folder.
        path: of the downloaded file or folder, for messages.
        what: name of the download, for messages.
    """
    with target as temporary:
        try:
            with growth(f"downloading {path.name}", temporary.parent):
                fetch(temporary.parent)
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            reason = error.__context__ or error  # medmnist replaces the reason by a page of advice
            raise UserError(
                f"{path}: download failed ({reason}); try again, or put {what} there"
            ) from None


def medmnist_info(flag: str) -> dict[str, Any]:
    """Return the medmnist package's description of the data set `flag`."""
    info: dict[str, Any] = _medmnist_table()[flag]
    return info


@cache
def _medmnist_table() -> dict[str, Any]:
    """Read the medmnist package's table without the package, which imports torch and pandas."""
    package = importlib.util.find_spec("medmnist")
    assert package
    file = Path(str(package.origin)).with_name("info.py")  # running it creates ~/.medmnist
    table: dict[str, Any] = runpy.run_path(str(file))["INFO"]
    return table


def medmnist_file(root: Path, flag: str, size: int) -> Path:
    """Return the path of the official file of the data set `flag` at `size`."""
    return root / "medmnist" / f"{flag}{_suffix(size)}.npz"


def _suffix(size: int) -> str:
    return "" if size == MEDMNIST_SIZES[0] else f"_{size}"


def _medmnist(data: DataConfig, download: bool) -> MedMnist:
    flag, size = data.name, data.size
    if size not in MEDMNIST_SIZES:
        sizes = ", ".join(map(str, MEDMNIST_SIZES))
        raise UserError(f"data.size={size}: {flag} has no such size; allowed: {sizes}")
    path = medmnist_file(data.root, flag, size)
    if not path.is_file():
        if not download:
            raise UserError(f"{path}: no such file; add --download, or put the file there")
        import medmnist

        info = medmnist_info(flag)
        make = partial(getattr(medmnist, info["python_class"]), "val", download=True, size=size)
        url = info["url" + _suffix(size)]
        _download(atomic_file(path), lambda root: make(root=root), path, url)  # "val" is small
    return MedMnist(path, flag, size)


def _torchvision(name: str, root: Path, download: bool) -> EncodedImages:
    from torchvision import datasets

    kind, folder, train, images = TORCHVISION[name]
    base, make = root / folder, getattr(datasets, kind)
    if not base.is_dir():
        if not download:
            raise UserError(f"{base}: no such folder; add --download, or put {name} there")
        _download(atomic_folder(base), lambda root: make(root, download=True), base, name)
    try:
        parts: dict[Part, Any] = {"train": make(root, train), "test": make(root, "test")}
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{base}: incomplete ({error}); remove that folder, then add --download"
        ) from None
    samples = {
        part: list(zip(getattr(own, images), own._labels, strict=True))
        for part, own in parts.items()
    }
    folders = {part: own._images_folder for part, own in parts.items()}
    return files_of_parts(list(parts["train"].classes), folders, samples, base)


class CatalogueEntry(NamedTuple):
    """One line of `bigbatch-ue datasets`; `present`: whether any of its files is there."""

    name: str
    what: str
    sizes: str
    place: str
    present: bool


def catalogue(root: Path) -> list[CatalogueEntry]:
    """List the data sets that `data.name` may name, and where their files belong."""
    pets, flowers = (root / TORCHVISION[name][1] for name in ("pets", "flowers102"))
    what_pets, what_flowers = "37 cats and dogs, 3,680 + 3,669", "102 flowers, 1,020 + 6,149"
    return [
        CatalogueEntry("digits", "10 digits, 1,437 + 360", "8", "in scikit-learn", True),
        CatalogueEntry("pets", what_pets, "any", str(pets), pets.is_dir()),
        CatalogueEntry("flowers102", what_flowers, "any", str(flowers), flowers.is_dir()),
        *(_medmnist_entry(root, flag) for flag in MEDMNIST_2D if flag in DATASETS),
        CatalogueEntry("npz:PATH", "your file with MedMNIST's keys", "any", "PATH", False),
        CatalogueEntry("folder:PATH", "your images", "any", "PATH/{train,test}/<class>/", False),
        CatalogueEntry(
            "parquet:PATH", "your Parquet files", "any", "PATH/**/train-*.parquet", False
        ),
        CatalogueEntry(
            "hf:NAME", "Hugging Face `datasets`", "any", "its cache, or a folder", False
        ),
        CatalogueEntry(
            "wds:PATTERN", "your WebDataset shards", "any", "train-{000..099}.tar", False
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
    return CatalogueEntry(flag, what, sizes, place, present)
