"""Sources of image files: in folders, or packed into other files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from bigbatch_ue.data.image_files import Picture, decode, naming_all_unreadable
from bigbatch_ue.data.inventory import describe_left_out
from bigbatch_ue.data.source import PARTS, Labels, Part, Pixels, Split
from bigbatch_ue.data.survey import Survey
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.processes import in_processes
from bigbatch_ue.runtime.progress import progress

_DARK = 64
"""Upper byte that 14 of 16 bits do not reach."""


@dataclass(frozen=True)
class EncodedPart:
    """The image files of a part.

    Attributes:
        labels: int64 [N].
        names: N different names.
        picture: returns the image file at an index.
    """

    labels: Labels
    names: list[str]
    picture: Callable[[int], Picture]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class EncodedImages:
    """A source of image files of any format, mode and size that PIL reads.

    Attributes:
        classes: name of each label.
        parts: the image files of each part.
        top: the folder of all files.
        paths: of the files with images, those of the train part first.
        left: names of what is left out below `top`, by reason.
    """

    classes: list[str]
    parts: Mapping[Part, EncodedPart]
    top: Path
    paths: list[Path]
    left: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """1 if every image of both parts is grey, else 3."""
        return self.survey.channels

    @cached_property
    def survey(self) -> Survey:
        """Read all headers.

        Raises:
            UserError: names all files that are not complete images.
        """
        whole = Survey()
        total = sum(map(len, self.parts.values()))
        with (
            self._naming_all(),
            progress("reading headers", "images", total, any_process=True) as stage,
        ):
            for images in self.parts.values():
                for chunk, own in in_processes(partial(self._look, images), len(images)):
                    whole.add(own)
                    stage.advance(len(chunk))
        if 0 < whole.upper < _DARK:
            raise UserError(
                f"{self.top / whole.kinds['wide'][1]}: images with colours use "
                f"{8 + whole.upper.bit_length()} of 16 bits, and would be nearly black; save "
                "them with 8 bits a colour"
            )
        return whole

    def _look(self, images: EncodedPart, indices: range) -> Survey:
        return Survey.of(map(images.picture, indices), self.top)

    def _naming_all(self) -> AbstractContextManager[None]:
        parts = self.parts.values()
        return naming_all_unreadable(each.picture(i) for each in parts for i in range(len(each)))

    def files(self) -> list[Path]:
        """Return the files with images of the train part, then of the test part."""
        return self.paths

    def left_out(self) -> list[str]:
        """Say what is left out, a line for each reason."""
        return describe_left_out(self.left)

    def changes(self) -> list[str]:
        """Say what of the images is left out or converted, a line for each kind."""
        return self.survey.changes(self.channels)

    @property
    def decoded_otherwise(self) -> bool:
        """Whether earlier versions decoded an image in another way."""
        return self.survey.decoded_otherwise

    def split(self, part: Part) -> Split:
        """Return the train or test part."""
        images = self.parts[part]

        def at(index: int) -> Pixels:
            return decode(images.picture(int(index)), self.channels, self.survey.bits)

        def decode_at(indices: Iterable[int]) -> Iterator[Pixels]:
            with self._naming_all():
                yield from map(at, indices)

        return Split(images.labels, images.names, decode_at, at, self._naming_all)


def files_of_parts(
    classes: list[str],
    folders: Mapping[Part, Path],
    samples: Mapping[Part, list[tuple[Path, int]]],
    top: Path,
    left: Mapping[str, list[str]] | None = None,
) -> EncodedImages:
    """Make a source of image files that lie in folders, named by their path below that of the part.

    Args:
        classes: name of each label.
        folders: of each part.
        samples: path and label of each image of each part.
        top: the folder of both parts.
        left: names of what is left out below `top`, by reason.
    """
    parts = {part: _part_of_files(samples[part], folders[part]) for part in PARTS}
    paths = [path for part in PARTS for path, _ in samples[part]]
    return EncodedImages(classes, parts, top, paths, left or {})


def _part_of_files(samples: list[tuple[Path, int]], folder: Path) -> EncodedPart:
    labels = np.array([label for _, label in samples], np.int64)
    names = [path.relative_to(folder).as_posix() for path, _ in samples]
    return EncodedPart(labels, names, lambda index: samples[index][0])
