"""Where images come from: a source lists its files and yields its images in their original size."""

import hashlib
import math
import os
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bigbatch_ue.artefacts import atomic_file, atomic_folder, regular
from bigbatch_ue.config import DATASETS, MEDMNIST_2D, Data
from bigbatch_ue.errors import UserError

Pixels = NDArray[np.uint8]
Part = Literal["train", "test"]

PARTS: tuple[Part, Part] = ("train", "test")
MEDMNIST_SIZES = (28, 64, 128, 224)
_MOST_PIXELS = 89_478_485  # of one image, as PIL has it

# torchvision's name of a data set: class, folder, train split, attribute that lists the images.
TORCHVISION = {
    "pets": ("OxfordIIITPet", "oxford-iiit-pet", "trainval", "_images"),
    "flowers102": ("Flowers102", "flowers-102", "train", "_image_files"),
}


@dataclass(frozen=True)
class Split:
    """Half of a source: `labels` int64 [N], N `names`, and a function that decodes the images.

    It yields N arrays, uint8 [C, h, w] of the original sizes, to be read only.
    """

    labels: NDArray[np.int64]
    names: list[str]
    images: Callable[[], Iterator[Pixels]]


class Source(Protocol):
    """A data set as it lies on disk; a file that is not as it should be is a `UserError`."""

    @property
    def classes(self) -> list[str]:
        """The name of each label."""

    @property
    def channels(self) -> int:
        """1 if every image of both splits is grey, else 3."""

    def files(self) -> list[Path]:
        """Every file that images come from, in a fixed order."""

    def split(self, part: Part) -> Split:
        """The train or test half."""


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
            with Image.open(regular(path)) as image:
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


@contextmanager
def _array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of one array of an npz file, and how many it says there are.

    Whatever is wrong with them is a `UserError`.
    """
    try:
        with zipfile.ZipFile(regular(path)) as archive, archive.open(f"{key}.npy") as stream:
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
        return _folder(Path(place).expanduser())
    if kind == "npz" and place:
        return Npz(Path(place).expanduser())
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
        UserError: a link that leads out of the folder `inside`, or to a folder seen already.
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
    return Image.registered_extensions().get(Path(file).suffix.lower()) in Image.OPEN


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
