"""Image files of any format: headers, decoding to 8 bits of sRGB, and what that changes."""

import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from bigbatch_ue.data.inventory import describe_left_out, safe_formats
from bigbatch_ue.data.source import PARTS, Part, Pixels, Split
from bigbatch_ue.files.paths import why_unreadable
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError, first_of
from bigbatch_ue.runtime.progress import progress

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of a grey value that cameras and scanners write into 16-bit files."""
_DARK = 64
"""Upper byte that 14 of 16 bits do not reach."""
_PHOTOMETRIC = 262
"""TIFF's tag PhotometricInterpretation: at 0, the value 0 is white."""


class UnreadableImageError(UserError):
    """The error of one file that is not a complete image; `fault` says what the file is."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path}: {fault}; fix or remove it")
        self.fault = fault


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


@dataclass(frozen=True)
class ImageFiles:
    """A source of image files of any format, mode and size that PIL reads.

    Attributes:
        classes: name of each label.
        folders: of each part; names of images are paths relative to it.
        samples: path and label of each image of each part.
        top: the folder of both parts.
        left: files below `top` that are left out, by reason.
    """

    classes: list[str]
    folders: dict[Part, Path]
    samples: dict[Part, list[tuple[Path, int]]]
    top: Path = Path()
    left: dict[str, list[Path]] = field(default_factory=dict)

    @cached_property
    def channels(self) -> int:
        """1 if every image of both parts is grey, else 3."""
        return 1 if all(header.grey for header in self._headers.values()) else 3

    @cached_property
    def bits(self) -> int:
        """Bits in use in the images of more than 8 bits, alike for all of them."""
        return bits_of(self._headers.values())

    @cached_property
    def _headers(self) -> dict[Path, Header]:
        headers = read_headers(self.files())
        upper = max((header.upper for header in headers.values()), default=0)
        if 0 < upper < _DARK:
            raise UserError(
                f"{next(path for path, header in headers.items() if header.upper)}: images with "
                f"colours use {8 + upper.bit_length()} of 16 bits, and would be nearly black; save "
                "them with 8 bits a colour"
            )
        return headers

    def files(self) -> list[Path]:
        """Return the images of the train part, then of the test part."""
        return [path for part in PARTS for path, _ in self.samples[part]]

    def left_out(self) -> list[str]:
        """Say which files are left out, a line for each reason."""
        return describe_left_out(self.left, self.top)

    def changes(self) -> list[str]:
        """Say what of the images is left out or converted, a line for each kind."""
        return describe_changes(self._headers, self.top, self.channels)

    @property
    def decoded_otherwise(self) -> bool:
        """Whether earlier versions decoded an image in another way."""
        if any(header.inverted for header in self._headers.values()):
            return True
        deep = any(header.largest for header in self._headers.values()) and self.bits < 16
        return deep or any(header.profile for header in self._headers.values())

    def split(self, part: Part) -> Split:
        """Return the train or test part, whose images are named by file."""
        samples, folder = self.samples[part], self.folders[part]
        labels = np.array([label for _, label in samples], np.int64)
        names = [path.relative_to(folder).as_posix() for path, _ in samples]

        def decode_at(indices: Iterable[int]) -> Iterator[Pixels]:
            with naming_all_unreadable(self.files()):
                for index in indices:
                    yield decode(samples[index][0], self.channels, self.bits)

        return Split(labels, names, decode_at)


@contextmanager
def naming_all_unreadable(files: Collection[Path]) -> Iterator[None]:
    """Replace the error of one unreadable image by an error that names all among `files`."""
    try:
        yield
    except UnreadableImageError:
        note("an image cannot be read; looking for others")
        with progress("checking images", "files", len(files)) as stage:
            faults = {path: fault for path in stage.track(files) if (fault := _find_fault(path))}
        if len(faults) < 2:
            raise
        top = common_folder(faults)
        each = [f"{path.relative_to(top)} {fault}" for path, fault in faults.items()]
        raise UserError(
            f"{top}: {len(faults):,} image files are damaged or unreadable: {first_of(each)}; "
            "fix or remove them"
        ) from None


def common_folder(files: Iterable[Path]) -> Path:
    """Return the folder of all files."""
    return Path(os.path.commonpath([file.parent for file in files]))


def read_headers(files: Collection[Path]) -> dict[Path, Header]:
    """Read the header of each file.

    Raises:
        UserError: names all files that are not complete images.
    """
    with (
        naming_all_unreadable(files),
        progress("reading headers", "files", len(files)) as stage,
    ):
        return {path: read_header(path) for path in stage.track(files)}


def _find_fault(path: Path) -> str | None:
    """Say what keeps an image from being read; None if nothing does."""
    try:
        read_header(path)
        decode(path, 3)
    except UnreadableImageError as error:
        return error.fault
    return None


def read_header(path: Path) -> Header:
    """Read the header of an image file, and the pixels of one with more than 8 bits.

    Raises:
        UnreadableImageError: not an image, or one of another kind of numbers than 0 to 65,535.
    """
    with _open_image(path) as image:
        deep = image.mode.startswith(("I", "F"))
        grey = deep or image.mode in ("1", "L", "LA", "La")
        frames, transparent = getattr(image, "n_frames", 1), image.has_transparency_data
        profile, inverted = _profile_name(image), deep and _zero_is_white(image)
        wide = not deep and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        largest = int(_levels(image).max()) if deep else 0
        upper = int(np.asarray(image).max()) if wide else 0
        cmyk = image.mode == "CMYK" and profile is None
        return Header(grey, frames, transparent, profile, largest, upper, inverted, cmyk)


def decode(path: Path, channels: int, bits: int = 16) -> Pixels:
    """Decode an image file: uint8 [`channels`, h, w], grey or sRGB, upright, on white.

    Of several pages or frames, the first is taken. Values of more than 8 bits are scaled by the
    number of `bits` in use. Colours of another profile than sRGB are converted to it.

    Raises:
        UnreadableImageError: not a complete image, or suspiciously many pixels.
    """
    with _open_image(path) as image:
        inverted = _zero_is_white(image)
        image = _to_srgb(_to_eight_bits(ImageOps.exif_transpose(image), bits, inverted))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def bits_of(headers: Iterable[Header]) -> int:
    """Return the smallest usual number of bits that holds all values of the images."""
    largest = max((header.largest for header in headers), default=0)
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def describe_changes(headers: dict[Path, Header], top: Path, channels: int) -> list[str]:
    """Say what of image files is left out or converted, a line for each kind.

    Args:
        headers: of the files.
        top: the folder of all of them.
        channels: to which they are decoded.
    """
    profiles = sorted({header.profile for header in headers.values() if header.profile})
    in_colour = " and taken in colour" if channels == 3 else ""
    kinds = {
        "with several pages or frames, of which the first is taken": [
            path for path, header in headers.items() if header.frames > 1
        ],
        "with transparency, put on white": [
            path for path, header in headers.items() if header.transparent
        ],
        "grey among colour images, so taken in colour": [
            path
            for path, header in headers.items()
            if header.grey and header.largest <= 255 and channels == 3
        ],
        **{
            f"with the colour profile {profile}, converted to sRGB": [
                path for path, header in headers.items() if header.profile == profile
            ]
            for profile in profiles
        },
        "in CMYK without a colour profile, converted to RGB": [
            path for path, header in headers.items() if header.cmyk
        ],
        "with 16 bits a colour, of which the upper 8 are taken": [
            path for path, header in headers.items() if header.upper
        ],
        f"with {bits_of(headers.values())} bits a value, scaled to 8{in_colour}": [
            path for path, header in headers.items() if header.largest > 255
        ],
    }
    return describe_left_out(kinds, top)


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    if reason := why_unreadable(path):
        raise UnreadableImageError(path, f"cannot be opened ({reason})")
    if path.stat().st_size == 0:
        raise UnreadableImageError(path, "is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=safe_formats()) as image:
                yield image
        except UnidentifiedImageError:  # its text repeats the path
            raise UnreadableImageError(
                path, "cannot be read as an image (damaged, or of another format)"
            ) from None
        except Exception as error:  # for a broken file, PIL raises almost any of them
            raise UnreadableImageError(path, f"cannot be read as an image ({error})") from None


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
