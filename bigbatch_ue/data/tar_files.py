"""The members of a tar file, found by its headers alone; nothing is ever unpacked to disk."""

import mmap
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError

BLOCK = 512
_FILES = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"L", b"K", b"x", b"g"


class Member(NamedTuple):
    """A member of a tar file.

    Attributes:
        name: its path.
        is_file: whether it is a file, not a folder, link or the like.
        start: offset of its first header.
        header: offset of its last header, the one before its content.
        data: offset of its content.
        size: bytes of its content.
    """

    name: str
    is_file: bool
    start: int
    header: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """Offset of the next member."""
        return self.data + _padded(self.size)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a tar file into memory.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    with require_file(path).open("rb") as file:
        if not path.stat().st_size:
            raise UserError(f"{path}: is empty (0 bytes); restore or remove it")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def list_members(path: Path, content: mmap.mmap) -> Iterator[Member]:
    """Yield the members of a tar file whose bytes are `content`, in order.

    Raises:
        UserError: a damaged header, or an end that comes too early.
    """
    position, length = 0, len(content)
    while True:
        start, name, size = position, "", -1
        while True:  # the headers of one member
            block = content[position : position + BLOCK]
            if len(block) < BLOCK:
                raise _torn(path, length)
            if not any(block):
                return
            kind, own = block[156:157], _size(path, position, block)
            data = position + BLOCK
            if data + own > length:
                raise _torn(path, length)
            if kind == _LONG_NAME:
                name = _text(content[data : data + own])
            elif kind == _EXTENDED:
                records = _records(path, position, content[data : data + own])
                name = records.get("path", name)
                size = int(records.get("size", size))
            elif kind not in (_LONG_LINK, _GLOBAL):
                break
            position = data + _padded(own)
        size = own if size < 0 else size
        if data + size > length:
            raise _torn(path, length)
        yield Member(name or _name(block), kind in _FILES, start, position, data, size)
        position = data + _padded(size)


def _size(path: Path, position: int, block: bytes) -> int:
    """Return the size of the content after a header, whose checksum is checked."""
    try:
        stored = tarfile.nti(block[148:156])  # type: ignore[attr-defined]
        size = int(tarfile.nti(block[124:136]))  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        stored, size = -1, -1
    if stored != sum(block) - sum(block[148:156]) + 8 * ord(" ") or size < 0:
        raise UserError(f"{path}: damaged at byte {position:,}, or no tar file; restore it")
    return size


def _records(path: Path, position: int, content: bytes) -> dict[str, str]:
    """Read the records of an extended header: `length key=value`, each of that length."""
    records: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        record, content = content[: int(length)], content[int(length) :]
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals:
            raise UserError(f"{path}: damaged at byte {position:,}; restore it")
        records[_text(key)] = _text(value)
    return records


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    posix = block[257:263] == b"ustar\0"
    return f"{prefix}/{name}" if posix and prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    """Return the bytes that a content of `size` fills, in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _torn(path: Path, length: int) -> UserError:
    return UserError(
        f"{path}: torn: it ends at byte {length:,} without the mark of its end; "
        "restore or remove it"
    )
