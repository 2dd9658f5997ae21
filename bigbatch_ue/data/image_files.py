"""Image files of any format: decoding, and folders with a subfolder for each class."""

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
    """A source of image files of any format, mode and size that PIL reads.

    Attributes:
        classes: name of each label.
        folders: of each part; names of images are paths relative to it.
        samples: path and label of each image of each part.
    """

    classes: list[str]
    folders: dict[Part, Path]
    samples: dict[Part, list[tuple[Path, int]]]

    @cached_property
    def channels(self) -> int:
        """1 if every image of both parts is grey, else 3."""
        return 1 if all(is_grey(path) for path in self.files()) else 3

    def files(self) -> list[Path]:
        """Return the images of the train part, then of the test part."""
        return [path for part in PARTS for path, _ in self.samples[part]]

    def split(self, part: Part) -> Split:
        """Return the train or test part, whose images are named by file."""
        samples, folder = self.samples[part], self.folders[part]
        labels = np.array([label for _, label in samples], np.int64)
        names = [path.relative_to(folder).as_posix() for path, _ in samples]
        return Split(labels, names, lambda: (decode(path, self.channels) for path, _ in samples))


def decode(path: Path, channels: int) -> Pixels:
    """Decode an image file: uint8 [`channels`, h, w], grey or RGB, upright, on white.

    Raises:
        UserError: not a complete image, or suspiciously many pixels.
    """
    with _open_image(path) as image:
        image = _to_eight_bits(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(require_file(path), formats=_safe_formats()) as image:
                yield image
        except UserError:
            raise
        except Exception as error:  # for a broken file, PIL raises almost any of them
            raise UserError(
                f"{path}: cannot be read as an image ({error}); fix or remove it"
            ) from None


def is_grey(path: Path) -> bool:
    """Whether an image file has no colour channels."""
    with _open_image(path) as image:
        return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))


def open_folder(path: Path) -> ImageFiles:
    """Open a folder with `train/<class>/<image>` and `test/<class>/<image>`.

    Raises:
        UserError: a missing folder, a class without images or in one part only, or a link that
            leads out of the folder.
    """
    folders = {part: path / part for part in PARTS}
    classes = _class_names(path)
    samples: dict[Part, list[tuple[Path, int]]] = {}
    for part, folder in folders.items():
        samples[part] = []
        for label, name in enumerate(classes):
            files = find_images(folder / name, inside=path)
            if not files:
                raise UserError(f"{folder / name}: contains no image; add at least one")
            samples[part] += [(file, label) for file in files]
    return ImageFiles(classes, folders, samples)


def find_images(top: Path, *, inside: Path) -> list[Path]:
    """Find the image files below `top`, sorted by folder; links to folders are followed.

    Raises:
        UserError: a link out of the folder `inside`, a link to a folder that was visited already,
            or a name with control characters.
    """
    images: list[Path] = []
    root, visited = inside.resolve(), set()
    for parent, folders, names in os.walk(top, followlinks=True):
        real = _require_within(Path(parent), root)
        if real in visited:
            raise UserError(f"{parent}: links to a folder that is here already; remove the link")
        visited.add(real)
        files = [Path(parent, name) for name in names if _has_image_suffix(name)]
        for path in (*files, *(Path(parent, name) for name in folders)):
            if CONTROL_CHARACTERS.search(str(path)):
                raise UserError(f"{path}: its name contains a control character; rename it")
            if path.is_symlink():
                _require_within(path, root)
        images += files
    return sorted(images, key=lambda path: (str(path.parent), path.name))


def _require_within(path: Path, root: Path) -> Path:
    """Return where `path` really is, which must be inside `root`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise UserError(
            f"{path}: links to {real}, outside {root}; copy it here, or remove the link"
        )
    return real


def _has_image_suffix(file: str) -> bool:
    return Image.registered_extensions().get(Path(file).suffix.lower()) in _safe_formats()


@cache
def _safe_formats() -> list[str]:
    """List PIL's formats except EPS, for which it starts Ghostscript, which executes the file."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _class_names(path: Path) -> list[str]:
    """List the names of the class folders, which must be the same in both parts."""
    names = {}
    for part in PARTS:
        folder = path / part
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; put images into {part}/<class>/")
        names[part] = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if not names[part]:
            raise UserError(f"{folder}: contains no class folder; put images into {part}/<class>/")
    for part, other in (PARTS, PARTS[::-1]):
        for name in sorted(names[part] - names[other]):
            raise UserError(
                f"{path / other / name}: no such folder, but {part} has that class; add it"
            )
    return sorted(names["train"])
