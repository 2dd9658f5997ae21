"""Where images come from: data sets by name, npz files and folders."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

from bigbatch_ue.config.schema import DATASETS, MEDMNIST_2D, Data
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import PARTS, Part, Pixels, Source, Split
from bigbatch_ue.files.atomic import atomic_file, atomic_folder, place_of, regular
from bigbatch_ue.runtime.errors import UNPLAIN, UserError

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


@dataclass(frozen=True)
class ImageFiles:
    """Image files of any format, mode and size that PIL reads: (path, label) in `samples`.

    A name is a path below the `folders` of its split.
    """

    classes: list[str]
    folders: dict[Part, Path]
    samples: dict[Part, list[tuple[Path, int]]]

    @cached_property
    def channels(self) -> int:
        """1 if every image of both splits is grey, else 3."""
        return 1 if all(_is_grey(path) for path in self.files()) else 3

    def files(self) -> list[Path]:
        """The images of train, then of test."""
        return [path for part in PARTS for path, _ in self.samples[part]]

    def split(self, part: Part) -> Split:
        """A half, named by file."""
        samples, folder = self.samples[part], self.folders[part]
        labels = np.array([label for _, label in samples], np.int64)
        names = [path.relative_to(folder).as_posix() for path, _ in samples]
        return Split(labels, names, lambda: (decode(path, self.channels) for path, _ in samples))


def decode(path: Path, channels: int) -> Pixels:
    """An image file as uint8 [`channels`, h, w], grey or RGB: upright, on white, 8 bits.

    Raises:
        UserError: the file is no whole image, or one of suspiciously many pixels.
    """
    with _opened(path) as image:
        image = _eight_bit(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(regular(path), formats=_formats()) as image:
                yield image
        except UserError:
            raise
        except Exception as error:  # PIL meets a broken file with nearly any of them
            raise UserError(f"{path}: not a readable image ({error}); mend or remove it") from None


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _eight_bit(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))


def open_source(data: Data, download: bool = False) -> Source:
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
        return _folder(place_of(place))
    if kind == "npz" and place:
        return Npz(place_of(place))
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


def _medmnist(data: Data, download: bool) -> MedMnist:
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


def _folder(path: Path) -> ImageFiles:
    folders = {part: path / part for part in PARTS}
    classes = _class_folders(path)
    samples: dict[Part, list[tuple[Path, int]]] = {}
    for part, folder in folders.items():
        samples[part] = []
        for label, name in enumerate(classes):
            found = image_files(folder / name, inside=path)
            if not found:
                raise UserError(f"{folder / name}: holds no image")
            samples[part] += [(file, label) for file in found]
    return ImageFiles(classes, folders, samples)


def image_files(top: Path, *, inside: Path) -> list[Path]:
    """The image files below `top`, folder by folder, sorted; linked folders are followed.

    Raises:
        UserError: a link that leads out of the folder `inside`, or to a folder seen already, or a
            name that is no text.
    """
    found: list[Path] = []
    whole, seen = inside.resolve(), set()
    for at, folders, names in os.walk(top, followlinks=True):
        here = _within(Path(at), whole)
        if here in seen:
            raise UserError(f"{at}: a link to a folder that is here already; remove it")
        seen.add(here)
        files = [Path(at, name) for name in names if _may_be_image(name)]
        for path in (*files, *(Path(at, name) for name in folders)):
            if UNPLAIN.search(str(path)):
                raise UserError(f"{path}: a name that is no text; rename it")
            if path.is_symlink():
                _within(path, whole)
        found += files
    return sorted(found, key=lambda path: (str(path.parent), path.name))


def _within(path: Path, whole: Path) -> Path:
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(whole):
        raise UserError(f"{path}: a link to {real}, outside {whole}; copy it here, or remove it")
    return real


def _may_be_image(file: str) -> bool:
    """Whether the suffix of `file` is that of an image format that PIL reads."""
    return Image.registered_extensions().get(Path(file).suffix.lower()) in _formats()


@cache
def _formats() -> list[str]:
    """What PIL reads by itself: for EPS it starts Ghostscript, which runs the file as a program."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _class_folders(path: Path) -> list[str]:
    """The names of the class folders, the same in both splits."""
    found = {}
    for part in PARTS:
        if not (path / part).is_dir():
            raise UserError(f"{path / part}: no such folder; images go to {part}/<class>/")
        found[part] = {entry.name for entry in (path / part).iterdir() if entry.is_dir()}
        if not found[part]:
            raise UserError(f"{path / part}: holds no class folder")
    for part, other in (PARTS, PARTS[::-1]):
        for name in sorted(found[part] - found[other]):
            raise UserError(f"{path / other / name}: no such folder, but {part} has that class")
    return sorted(found["train"])
