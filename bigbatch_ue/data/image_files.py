"""Where images come from: data sets by name, npz files and folders."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bigbatch_ue.data.source import PARTS, Part, Pixels, Split
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import CONTROL_CHARACTERS, UserError


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
            with Image.open(require_file(path), formats=_formats()) as image:
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


def open_folder(path: Path) -> ImageFiles:
    """Open a folder that holds `train/<class>/<image>` and `test/<class>/<image>`.

    Raises:
        UserError: a missing folder, a class without images or in one part only, a link that leads
            out of the folder.
    """
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
            if CONTROL_CHARACTERS.search(str(path)):
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
