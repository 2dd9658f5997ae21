"""WebDataset shards: tar files whose members `KEY.jpg` and `KEY.cls` are an image and its label."""

import bisect
import json
import mmap
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.encoded import EncodedImages, EncodedPart
from bigbatch_ue.data.image_files import Packed
from bigbatch_ue.data.inventory import is_image_suffix
from bigbatch_ue.data.labels import number_classes, require_classes
from bigbatch_ue.data.shards import find_shards
from bigbatch_ue.data.source import PARTS, Part
from bigbatch_ue.data.tar_files import Member, list_members, mapped
from bigbatch_ue.runtime.errors import CONTROL_CHARACTERS, UserError

TAR = ".tar"
CLASS_NAMES = "classnames.txt"
"""File beside the shards with the name of each class, a line for each."""

_KEY = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)")
_NUMBER = re.compile(r"-?\d{1,18}")
_OPEN_SHARDS = 32


@dataclass
class Sample:
    """The members of a shard with one key.

    Attributes:
        members: by their suffix in lower case.
        image: suffix of the image; None if there is none.
        label: its class; None if there is none.
    """

    members: dict[str, Member]
    image: str | None
    label: int | None


@dataclass(frozen=True)
class TarImages(EncodedImages):
    """Images in tar files.

    Attributes:
        shards: of each part.
        others: those of other splits.
        take: the members that are taken.
    """

    shards: Mapping[Part, Sequence[Path]] = field(default_factory=dict)
    others: Sequence[Path] = ()
    take: TakeConfig = field(default_factory=TakeConfig)


def open_tars(place: str, take: TakeConfig, parts: Sequence[Part] = PARTS) -> TarImages:
    """Open the shards of a folder or pattern.

    Raises:
        UserError: a torn shard, a key that occurs twice, several images with one key, labels that
            are no whole numbers or no classes, and as for `find_shards`.
    """
    shards = find_shards(place, TAR, take, parts, used=CLASS_NAMES)
    left = {**shards.left}
    read = {part: _Index(shards.parts[part], shards.top, take, left) for part in PARTS}
    found = {part: index.part() for part, index in read.items()}
    files = [path for part in PARTS for path in shards.parts[part]]
    classes = _class_names(shards.top / CLASS_NAMES) or number_classes(
        files[0], [part.labels for part in found.values()]
    )
    for part in parts:
        require_classes(shards.parts[part][0], part, found[part].labels, len(classes))
    return TarImages(classes, found, shards.top, files, left, shards.parts, shards.others, take)


def _class_names(path: Path) -> list[str]:
    """Read the names of the classes; none if there is no such file."""
    if not path.is_file():
        return []
    try:
        names = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; save it as such") from None
    return [name.strip() for name in names if name.strip()]


def read_samples(path: Path, take: TakeConfig, left: dict[str, list[str]]) -> Iterator[Sample]:
    """Yield the samples of a shard in order; add to `left` the names of members in none.

    Raises:
        UserError: the shard is torn, or a sample is not one image with one label.
    """
    with mapped(path) as content:
        keyed = _keyed(path, list_members(path, content), left)
        for key, members in groupby(keyed, lambda each: each[0]):
            own: dict[str, Member] = {}
            for _, suffix, member in members:
                if suffix in own:
                    raise UserError(f"{path}: {member.name} occurs twice; give each its own key")
                own[suffix] = member
            image = _image_of(path, key, own, take.image)
            yield Sample(own, image, _label_of(path, content, own, take.label))


def _keyed(
    path: Path, members: Iterable[Member], left: dict[str, list[str]]
) -> Iterator[tuple[str, str, Member]]:
    """Yield the files of a shard, each with its key and suffix, which the first dot divides."""
    for member in members:
        parsed = _KEY.fullmatch(member.name.removeprefix("./"))
        if CONTROL_CHARACTERS.search(member.name):
            raise UserError(f"{path}: {member.name!a}: not a valid name; rename the member")
        if parsed is None or not member.is_file:
            left.setdefault("without a key and a suffix", []).append(f"{path.name}: {member.name}")
            continue
        yield parsed[1], parsed[2].lower(), member


def _image_of(
    path: Path, key: str, members: Mapping[str, Member], wanted: str | None
) -> str | None:
    if wanted is not None:
        return wanted if wanted in members else None
    images = [suffix for suffix in members if is_image_suffix(f".{suffix.rpartition('.')[2]}")]
    if len(images) > 1:
        raise UserError(
            f"{path}: {key} has several images, {', '.join(images)}; name one, "
            f"data.take.image={images[0]}"
        )
    return images[0] if images else None


def _label_of(
    path: Path, content: mmap.mmap, members: Mapping[str, Member], wanted: str | None
) -> int | None:
    """Read the label of a sample: the text of a member, or a value of its member `json`."""
    member = members.get(wanted or "cls")
    described = members.get("json")
    if member is not None:
        text = content[member.data : member.data + member.size].decode("utf-8", "replace").strip()
        label = int(text) if _NUMBER.fullmatch(text) else text
    elif described is not None:
        member = described
        try:
            values = json.loads(content[member.data : member.data + member.size])
            label = values.get(wanted or "label")
        except (ValueError, AttributeError):
            raise UserError(f"{path}: {member.name} is not a JSON object; mend it") from None
    else:
        return None
    if label is None or type(label) is int:
        return label
    raise UserError(
        f"{path}: {member.name}: {str(label)[:40]!r} is not the number of a class; write a whole "
        "number from 0 on"
    )


class _Index:
    """Where the images of a part lie in its shards, in numbers rather than objects."""

    def __init__(
        self, shards: Sequence[Path], top: Path, take: TakeConfig, left: dict[str, list[str]]
    ) -> None:
        self._shards, self._members = shards, list[str]()
        self._offsets, self._sizes, self._labels = array("q"), array("q"), array("q")
        counts = [self._add(path, take, left) for path in shards]
        self._starts = [0, *accumulate(counts)]
        self._top = top

    def _add(self, path: Path, take: TakeConfig, left: dict[str, list[str]]) -> int:
        """Add the samples of a shard, and return their number."""
        before = len(self._members)
        for sample in read_samples(path, take, left):
            if sample.image is None or sample.label is None:
                reason = _incomplete(sample)
                name = next(iter(sample.members.values())).name
                left.setdefault(reason, []).append(f"{path.name}: {name}")
                continue
            image = sample.members[sample.image]
            self._members.append(image.name)
            self._offsets.append(image.data)
            self._sizes.append(image.size)
            self._labels.append(sample.label)
        own = self._members[before:]
        if len(set(own)) < len(own):
            twice = Counter(own).most_common(1)[0][0]
            raise UserError(f"{path}: {twice} occurs twice; give each its own key")
        return len(own)

    def part(self) -> EncodedPart:
        """Return the part."""
        return EncodedPart(np.array(self._labels, np.int64), self._names(), self._picture)

    def _names(self) -> list[str]:
        """Return the names of the members, behind those of their shards if they are not unique."""
        if len(set(self._members)) == len(self._members):
            return self._members
        shards = [path.relative_to(self._top).with_suffix("").as_posix() for path in self._shards]
        pairs = zip(shards, self._starts, self._starts[1:], strict=False)
        return [
            str(PurePosixPath(name).with_name(f"{shard.replace('/', '-')}-{Path(name).name}"))
            for shard, start, end in pairs
            for name in self._members[start:end]
        ]

    def _picture(self, index: int) -> Packed:
        path = self._shards[bisect.bisect_right(self._starts, index) - 1]
        content = os.pread(_open(path).fileno(), self._sizes[index], self._offsets[index])
        return Packed(path, self._members[index], content)


def _incomplete(sample: Sample) -> str:
    if sample.image is not None:
        return "images without a label"
    return "without an image" if sample.label is None else "labels without an image"


@lru_cache(_OPEN_SHARDS)
def _open(path: Path) -> BinaryIO:
    return path.open("rb")
