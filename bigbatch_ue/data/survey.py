"""What the headers of many image files say together, and what their decoding changes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bigbatch_ue.data.image_files import Header, Picture, name_below, read_header

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of a grey value that cameras and scanners write into 16-bit files."""
_PROFILE = "profile "


@dataclass
class Survey:
    """The headers of image files, in numbers.

    Attributes:
        coloured: number of images with colours.
        largest: the largest value of those that are grey and have more than 8 bits.
        upper: the largest value of the upper 8 of 16 bits, of those with colours or transparency.
        kinds: the kinds that matter, each with the number of its images, and the name of the first.
    """

    coloured: int = 0
    largest: int = 0
    upper: int = 0
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, pictures: Iterable[Picture], top: Path) -> Self:
        """Read the headers of images, named by their place below `top`.

        Raises:
            UnreadableImageError: one is not a complete image.
        """
        survey = cls()
        for picture in pictures:
            survey._add(read_header(picture), name_below(picture, top))
        return survey

    def _add(self, header: Header, name: str) -> None:
        self.coloured += not header.grey
        self.largest = max(self.largest, header.largest)
        self.upper = max(self.upper, header.upper)
        for kind in _kinds(header):
            self._count(kind, 1, name)

    def _count(self, kind: str, more: int, name: str) -> None:
        count, first = self.kinds.get(kind, (0, name))
        self.kinds[kind] = count + more, first

    def add(self, later: Self) -> None:
        """Add the survey of images that come after these."""
        self.coloured += later.coloured
        self.largest = max(self.largest, later.largest)
        self.upper = max(self.upper, later.upper)
        for kind, (count, first) in later.kinds.items():
            self._count(kind, count, first)

    @property
    def channels(self) -> int:
        """1 if every image is grey, else 3."""
        return 3 if self.coloured else 1

    @property
    def bits(self) -> int:
        """The smallest usual number of bits that holds all grey values."""
        return next(bits for bits in _DEPTHS if self.largest < 2**bits)

    @property
    def decoded_otherwise(self) -> bool:
        """Whether earlier versions decoded an image in another way."""
        deep = self.largest > 0 and self.bits < 16
        return deep or "inverted" in self.kinds or bool(self._profiles)

    @property
    def _profiles(self) -> list[str]:
        return sorted(
            kind.removeprefix(_PROFILE) for kind in self.kinds if kind.startswith(_PROFILE)
        )

    def changes(self, channels: int) -> list[str]:
        """Say what changes when the images are decoded to `channels`, a line for each kind."""
        in_colour = " and taken in colour" if channels == 3 else ""
        words = {
            "frames": "with several pages or frames, of which the first is taken",
            "transparent": "with transparency, put on white",
            "grey": "grey among colour images, so taken in colour",
            **{
                f"{_PROFILE}{name}": f"with the colour profile {name}, converted to sRGB"
                for name in self._profiles
            },
            "cmyk": "in CMYK without a colour profile, converted to RGB",
            "wide": "with 16 bits a colour, of which the upper 8 are taken",
            "deep": f"with {self.bits} bits a value, scaled to 8{in_colour}",
        }
        if channels == 1:
            del words["grey"]
        return [
            f"{self.kinds[kind][0]:,} {text}, such as {self.kinds[kind][1]}"
            for kind, text in words.items()
            if kind in self.kinds
        ]


def _kinds(header: Header) -> Iterator[str]:
    """Name the kinds to which an image belongs."""
    if header.frames > 1:
        yield "frames"
    if header.transparent:
        yield "transparent"
    if header.grey and header.largest <= 255:
        yield "grey"
    if header.profile:
        yield f"{_PROFILE}{header.profile}"
    if header.cmyk:
        yield "cmyk"
    if header.upper:
        yield "wide"
    if header.largest > 255:
        yield "deep"
    if header.inverted:
        yield "inverted"
