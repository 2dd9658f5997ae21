"""Image files of any format, wherever they lie: headers, and decoding to 8 bits of sRGB."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from bigbatch_ue.data.inventory import safe_formats
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.files.paths import why_unreadable
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError, first_of
from bigbatch_ue.runtime.progress import progress

_PHOTOMETRIC = 262
"""TIFF's tag PhotometricInterpretation: at 0, the value 0 is white."""


@dataclass(frozen=True)
class Packed:
    """An image file that another file contains, with its name there."""

    file: Path
    member: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.file}: {self.member}"


Picture = Path | Packed
"""An image file, by itself or in another file."""


class UnreadableImageError(UserError):
    """The error of a file that is not a complete image: `where` it is, and `what` it is."""

    def __init__(self, picture: Picture, what: str) -> None:
        super().__init__(f"{picture}: {what}; fix or remove it")
        self.where, self.what = _where(picture), what


@dataclass(frozen=True)
class Header:
    """The properties of an image file on which its decoding depends.

    Attributes:
        grey: whether it has no colour channels.
        frames: its number of pages or frames.
        transparent: whether some of it may be transparent.
        profile: name of its colour profile, if that is not sRGB.
        largest: its largest value, if it is grey and has more than 8 bits; else 0.
        upper: largest value of the upper 8 of 16 bits, if it has colours or transparency; else 0.
        inverted: whether it has more than 8 bits, of which 0 is white.
        cmyk: whether its colours are CMYK, without a profile.
    """

    grey: bool
    frames: int
    transparent: bool
    profile: str | None
    largest: int
    upper: int = 0
    inverted: bool = False
    cmyk: bool = False


@contextmanager
def naming_all_unreadable(pictures: Iterable[Picture]) -> Iterator[None]:
    """Replace the error of one unreadable image by an error that names all among `pictures`."""
    try:
        yield
    except UnreadableImageError:
        note("an image cannot be read; looking for others")
        with progress("checking images", "images") as stage:
            tried = map(_find_fault, stage.track(pictures))
            faults = [(fault.where, fault.what) for fault in tried if fault]
        if len(faults) < 2:
            raise
        top = common_folder(file for (file, _), _ in faults)
        each = [f"{_name(where, top)} {what}" for where, what in faults]
        raise UserError(
            f"{top}: {len(faults):,} image files are damaged or unreadable: {first_of(each)}; "
            "fix or remove them"
        ) from None


def common_folder(files: Iterable[Path]) -> Path:
    """Return the folder of all files."""
    return Path(os.path.commonpath([file.parent for file in files]))


def name_below(picture: Picture, top: Path) -> str:
    """Name an image by its path below `top`, and by its own name in the file that contains it."""
    return _name(_where(picture), top)


def _where(picture: Picture) -> tuple[Path, str | None]:
    """Return the file of an image, and its name in that file if it contains others too."""
    if isinstance(picture, Packed):
        return picture.file, picture.member
    return picture, None


def _name(where: tuple[Path, str | None], top: Path) -> str:
    file, member = where
    name = file.relative_to(top).as_posix()
    return name if member is None else f"{name}: {member}"


def _find_fault(picture: Picture) -> UnreadableImageError | None:
    """Return what keeps an image from being read; None if nothing does."""
    try:
        read_header(picture)
        decode(picture, 3)
    except UnreadableImageError as error:
        return error
    return None


def read_header(picture: Picture) -> Header:
    """Read the header of an image file, and the pixels of one with more than 8 bits.

    Raises:
        UnreadableImageError: not an image, or one of another kind of numbers than 0 to 65,535.
    """
    with _open_image(picture) as image:
        deep = image.mode.startswith(("I", "F"))
        grey = deep or image.mode in ("1", "L", "LA", "La")
        frames, transparent = getattr(image, "n_frames", 1), image.has_transparency_data
        profile, inverted = _profile_name(image), deep and _zero_is_white(image)
        wide = not deep and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        largest = int(_levels(image).max()) if deep else 0
        upper = int(np.asarray(image).max()) if wide else 0
        cmyk = image.mode == "CMYK" and profile is None
        return Header(grey, frames, transparent, profile, largest, upper, inverted, cmyk)


def decode(picture: Picture, channels: int, bits: int = 16) -> Pixels:
    """Decode an image file: uint8 [`channels`, h, w], grey or sRGB, upright, on white.

    Of several pages or frames, the first is taken. Values of more than 8 bits are scaled by the
    number of `bits` in use. Colours of another profile than sRGB are converted to it.

    Raises:
        UnreadableImageError: not a complete image, or suspiciously many pixels.
    """
    with _open_image(picture) as image:
        inverted = _zero_is_white(image)
        image = _to_srgb(_to_eight_bits(ImageOps.exif_transpose(image), bits, inverted))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


@contextmanager
def _open_image(picture: Picture) -> Iterator[Image.Image]:
    if isinstance(picture, Path) and (reason := why_unreadable(picture)):
        raise UnreadableImageError(picture, f"cannot be opened ({reason})")
    file = picture if isinstance(picture, Path) else BytesIO(picture.content)
    size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
    if size == 0:
        raise UnreadableImageError(picture, "is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=safe_formats()) as image:
                yield image
        except UnidentifiedImageError:  # its text repeats the path
            raise UnreadableImageError(
                picture, "cannot be read as an image (damaged, or of another format)"
            ) from None
        except Exception as error:  # for a broken file, PIL raises almost any of them
            raise UnreadableImageError(picture, f"cannot be read as an image ({error})") from None


def _levels(image: Image.Image) -> Pixels:
    """Return the values of a grey image of more than 8 bits."""
    if image.mode == "F":
        raise ValueError("floating-point values; save whole numbers from 0 to 65535")
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"values from {levels.min()} to {levels.max()}; shift them to 0 to 65535")
    return levels


def _zero_is_white(image: Image.Image) -> bool:
    """Whether a TIFF file stores a negative; Pillow turns those of up to 8 bits."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]


def _to_eight_bits(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    scaled = np.rint(_levels(image) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if inverted else scaled)


def _profile_name(image: Image.Image) -> str | None:
    """Return the name of the colour profile of an image; None for sRGB, or without any."""
    content = image.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = ImageCms.getOpenProfile(BytesIO(content))
        name = " ".join(ImageCms.getProfileDescription(profile).split())
    except (ImageCms.PyCMSError, OSError):
        return None
    return None if "srgb" in name.lower() else name or "without a name"


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert the colours of an image with another profile to sRGB."""
    if _profile_name(image) is None:
        return image
    profile = ImageCms.getOpenProfile(BytesIO(image.info["icc_profile"]))
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    if alpha is not None:
        image = image.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
