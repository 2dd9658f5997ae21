"""The files of a folder: the images among them, and why each other file is left out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from PIL import Image

from bigbatch_ue.runtime.errors import CONTROL_CHARACTERS, UserError

_HEIF = {".heic", ".heif", ".hif"}
_HIDDEN = "hidden"
_IN_HIDDEN = "in hidden folders"
_HIDDEN_FOLDERS = (".", "@", "#recycle", "$", "__macosx")
"""How the names of folders begin in which systems and programs keep thumbnails and the like."""


@dataclass
class Inventory:
    """The files of a folder.

    Attributes:
        images: the image files, in order.
        left_out: the other files, by the reason for which they are left out.
    """

    images: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, reason: str, files: Iterable[Path]) -> None:
        """Add files that are left out."""
        self.left_out.setdefault(reason, []).extend(files)

    def add(self, other: Self) -> None:
        """Add the files of another inventory."""
        self.images += other.images
        for reason, files in other.left_out.items():
            self.leave_out(reason, files)

    def names_left_out(self, top: Path) -> dict[str, list[str]]:
        """Return the paths below `top` of what is left out, by reason."""
        return {
            reason: [file.relative_to(top).as_posix() for file in files]
            for reason, files in self.left_out.items()
        }


def describe_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Say how many things were left out, why, and which comes first, a line for each reason."""
    return [
        f"{len(names):,} {reason}, such as {names[0]}"
        for reason, names in left_out.items()
        if names
    ]


def find_images(top: Path, *, inside: Path) -> list[Path]:
    """Find the image files below `top`, as `take_inventory` does."""
    return take_inventory(top, inside=inside).images


def take_inventory(top: Path, *, inside: Path) -> Inventory:
    """List the files below `top`, sorted by folder; links to folders are followed.

    Hidden files, and those in folders that systems hide, are left out.

    Raises:
        UserError: a link out of the folder `inside`, a link to a folder that was visited already,
            or a name with control characters.
    """
    found = Inventory()
    root, visited = inside.resolve(), set()
    for parent, folders, names in os.walk(top, followlinks=True):
        real = _require_within(Path(parent), root)
        if real in visited:
            raise UserError(f"{parent}: links to a folder that is here already; remove the link")
        visited.add(real)
        hidden = [name for name in folders if is_hidden_folder(name)]
        folders[:] = sorted(set(folders) - set(hidden))
        for name in hidden:
            found.leave_out(_IN_HIDDEN, files_below(Path(parent, name)))
        images = []
        for name in sorted(names):
            reason = _reason(name)
            if reason is None:
                images.append(Path(parent, name))
            else:
                found.leave_out(reason, [Path(parent, name)])
        found.images += images
        for path in (*images, *(Path(parent, name) for name in folders)):
            if CONTROL_CHARACTERS.search(str(path)):
                raise UserError(
                    f"{path}: its name contains a control character, or bytes that are not UTF-8; "
                    "rename it"
                )
            if path.is_symlink():
                _require_within(path, root)
    found.images.sort(key=lambda path: (str(path.parent), path.name))
    return found


def list_others(folder: Path, taken: Iterable[str], reason: str) -> Inventory:
    """List the files in `folder` that are in none of the folders `taken`, images first.

    Args:
        folder: links in it are not followed.
        taken: names of folders in it.
        reason: why images there are left out; other files have a reason of their own.
    """
    others = Inventory(left_out={reason: []})
    for entry in sorted(entry for entry in folder.iterdir() if entry.name not in taken):
        hidden = entry.is_dir() and is_hidden_folder(entry.name)
        for file in files_below(entry):
            own = _IN_HIDDEN if hidden else _reason(file.name)
            others.leave_out(own or reason, [file])
    return others


def files_below(top: Path) -> list[Path]:
    """List all files below a folder, or the file itself; links are not followed."""
    if not top.is_dir() or top.is_symlink():
        return [top]
    return [Path(parent, name) for parent, _, names in os.walk(top) for name in sorted(names)]


def is_hidden_folder(name: str) -> bool:
    """Whether systems or programs keep thumbnails and the like in a folder of that name."""
    return name.lower().startswith(_HIDDEN_FOLDERS)


def safe_formats() -> list[str]:
    """List PIL's formats except EPS, for which it starts Ghostscript, which executes the file."""
    _register_formats()
    return [name for name in Image.ID if name != "EPS"]


@cache
def _register_formats() -> None:
    """Register all formats that PIL reads, those of the extra `heic` among them."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _reason(name: str) -> str | None:
    """Return why a file is left out; None for an image, as far as its name says."""
    if name.startswith("."):
        return _HIDDEN
    suffix = Path(name).suffix
    if not suffix:
        return "without a suffix"
    if is_image_suffix(suffix.lower()):
        return None
    if suffix.lower() in _HEIF:
        return f"{suffix}, read after pip install 'bigbatch-ue[heic]'"
    return f"{suffix}, not an image format that is read"


@cache
def is_image_suffix(suffix: str) -> bool:
    """Whether `suffix`, such as `.jpg`, is that of a format that is read."""
    return _format_of(suffix) in (*safe_formats(), "MPO")  # which Pillow reads as JPEG


def _format_of(suffix: str) -> str | None:
    _register_formats()
    return Image.registered_extensions().get(suffix)


def _require_within(path: Path, root: Path) -> Path:
    """Return where `path` really is, which must be inside `root`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise UserError(
            f"{path}: links to {real}, outside {root}; copy it here, or remove the link"
        )
    return real
