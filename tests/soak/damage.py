"""Damages to a file or folder; the `repr` of each one is Python code that repeats it."""

import csv
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import yaml
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file

OUTSIDE = "../outside"
"""A folder beside that of a case; the program must never open it."""


class Damage(Protocol):
    """A damage that can be done to a path."""

    def __call__(self, path: Path) -> None:
        """Damage the file or folder at `path`."""


# -- bytes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flipped:
    """Some bits of one byte flipped, at a fraction of the file."""

    at: float
    bits: int

    def __call__(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(self.at * (len(content) - 1))] ^= self.bits
        path.write_bytes(content)


@dataclass(frozen=True)
class Cut:
    """The file cut off, at a fraction of its length."""

    share: float

    def __call__(self, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(self.share * len(content))])


@dataclass(frozen=True)
class Inserted:
    """Foreign bytes inserted, at a fraction of the file."""

    at: float
    content: bytes

    def __call__(self, path: Path) -> None:
        content = path.read_bytes()
        place = int(self.at * len(content))
        path.write_bytes(content[:place] + self.content + content[place:])


@dataclass(frozen=True)
class Replaced:
    """Another content of the file."""

    content: bytes

    def __call__(self, path: Path) -> None:
        path.write_bytes(self.content)


@dataclass(frozen=True)
class Repeated:
    """A text repeated many times."""

    text: str
    times: int
    end: str = ""

    def __call__(self, path: Path) -> None:
        path.write_text(self.text * self.times + self.end)


@dataclass(frozen=True)
class Kept:
    """Another damage that keeps the modification time of the file."""

    damage: Damage

    def __call__(self, path: Path) -> None:
        before = path.stat()
        self.damage(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- kinds of paths ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instead:
    """Nothing, an empty folder, a pipe without a writer, or a link to `to`, instead of the path."""

    kind: Literal["nothing", "folder", "pipe", "link"]
    to: str = ""

    def __call__(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        match self.kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to(self.to)


@dataclass(frozen=True)
class Added:
    """A copy of one file of a folder under another name."""

    name: bytes
    of: str

    def __call__(self, path: Path) -> None:
        target = os.path.join(os.fsencode(path), self.name)  # noqa: PTH118
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        shutil.copyfile(os.fsencode(path / self.of), target)


@dataclass(frozen=True)
class Copied:
    """The folder, copied and put in its own place: other times, the same bytes."""

    def __call__(self, path: Path) -> None:
        copy = path.with_name(f"copy of {path.name}")
        shutil.copytree(path, copy, copy_function=shutil.copyfile)
        shutil.rmtree(path)
        copy.rename(path)


@dataclass(frozen=True)
class TableCell:
    """Another text in one cell of a CSV file; `row` and `column` are taken modulo their numbers."""

    row: int
    column: int
    text: str

    def __call__(self, path: Path) -> None:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        row = rows[1 + self.row % (len(rows) - 1)]
        row[self.column % len(row)] = self.text
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


@dataclass(frozen=True)
class Environment:
    """Variables of the environment set, or unset with None; whoever does so restores them."""

    variables: tuple[tuple[str, str | None], ...]

    def __call__(self, path: Path) -> None:
        for name, value in self.variables:
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True)
class Nothing:
    """No damage: the command itself is odd."""

    def __call__(self, path: Path) -> None:
        """Leave the file as it is."""


@dataclass(frozen=True)
class Renamed:
    """Another name for all folders of one name below the path."""

    old: str
    new: bytes

    def __call__(self, path: Path) -> None:
        for folder in sorted(path.rglob(self.old)):
            os.rename(folder, os.path.join(os.fsencode(folder.parent), self.new))  # noqa: PTH104, PTH118


@dataclass(frozen=True)
class Linked:
    """A link below the path."""

    name: str
    to: str

    def __call__(self, path: Path) -> None:
        (path / self.name).unlink(missing_ok=True)
        (path / self.name).symlink_to(self.to)


@dataclass(frozen=True)
class Maze:
    """Folders with two links each to the next one: 2 ** 20 paths to one image."""

    below: str

    def __call__(self, path: Path) -> None:
        rooms = path / "rooms"
        for number in range(20):
            (rooms / str(number)).mkdir(parents=True)
            for door in "ab":
                (rooms / str(number) / door).symlink_to(f"../{number + 1}")
        (rooms / "20").mkdir()
        Image.new("RGB", (8, 9)).save(rooms / "20" / "x.png")
        (path / self.below / "maze").symlink_to((rooms / "0").absolute())


@dataclass(frozen=True)
class Picture:
    """An image of another kind, or one that claims to be enormous."""

    kind: Literal[
        "bomb", "float", "deep", "palette", "animated", "one", "long", "twelve", "signed", "profile"
    ]

    def __call__(self, path: Path) -> None:
        match self.kind:
            case "bomb":
                path.write_bytes(_png_of(60_000, 60_000))
            case "float":
                Image.new("F", (8, 9), 1e9).save(path, format="TIFF")
            case "deep":
                Image.new("I;16", (8, 9), 40_000).save(path)
            case "palette":
                Image.new("P", (8, 9)).save(path, transparency=b"\x80" * 256)
            case "animated":
                frames = [Image.new("RGB", (8, 9), (n, n, n)) for n in range(3)]
                frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
            case "one":
                Image.new("1", (1, 1)).save(path)
            case "long":
                Image.new("RGB", (1, 20_000)).save(path)
            case "twelve":
                Image.new("I;16", (8, 9), 4000).save(path)
            case "signed":
                Image.new("I", (8, 9), -1000).save(path, format="TIFF")
            case "profile":
                profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
                Image.new("RGB", (8, 9)).save(path, icc_profile=profile)


def _png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checked

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


# -- trees: JSON, YAML, and the header of a safetensors file --------------------------------------


@dataclass(frozen=True)
class Node:
    """A value or key of a tree replaced by a text, or removed; `at` is taken modulo the nodes."""

    at: int
    what: Literal["value", "key", "gone"]
    text: str = ""

    def __call__(self, path: Path) -> None:
        reading, writing = _formats(path)
        tree = {"": reading(path)}
        writing(path, self._changed(tree))

    def _changed(self, tree: dict[str, Any]) -> str:
        nodes = list(places(tree))
        held, key = nodes[self.at % len(nodes)]
        mark = "here it goes"
        if self.what == "gone":
            del held[key]
        elif self.what == "key" and isinstance(held, dict):
            held[mark] = held.pop(key)
        else:
            held[key] = mark
        return json.dumps(tree.get("")).replace(f'"{mark}"', self.text)


@dataclass(frozen=True)
class Metadata:
    """A damaged node of the metadata that the program writes to a safetensors file."""

    node: Node

    def __call__(self, path: Path) -> None:
        header, rest = _header_of(path)
        about = json.loads(header["__metadata__"]["bigbatch_ue"])
        header["__metadata__"]["bigbatch_ue"] = self.node._changed({"": about})
        _write_header(path, json.dumps(header), rest)


@dataclass(frozen=True)
class Length:
    """A wrong length of the header of a safetensors file."""

    length: int

    def __call__(self, path: Path) -> None:
        path.write_bytes(struct.pack("<Q", self.length) + path.read_bytes()[8:])


@dataclass(frozen=True)
class Tensors:
    """A tensor with another shape, dtype or value, or none; `at` is taken modulo their number."""

    at: int
    how: Literal["gone", "double", "whole", "longer", "scalar", "flat", "nan", "huge", "negative"]

    def __call__(self, path: Path) -> None:
        header, _ = _header_of(path)
        tensors = load_file(path)
        if not tensors:
            return
        name = sorted(tensors)[self.at % len(tensors)]
        tensor = tensors.pop(name)
        changes: dict[str, Callable[[], torch.Tensor]] = {
            "double": lambda: tensor.double(),
            "whole": lambda: tensor.to(torch.int32),
            "longer": lambda: torch.cat([torch.atleast_1d(tensor)] * 2),
            "scalar": lambda: torch.zeros((), dtype=tensor.dtype),
            "flat": lambda: tensor.flatten(),
            "nan": lambda: tensor * float("nan"),
            "huge": lambda: torch.full_like(tensor, 2**31),
            "negative": lambda: -tensor - 1,
        }
        if self.how in changes:
            tensors[name] = changes[self.how]().contiguous()
        save_file(tensors, path, metadata=header.get("__metadata__"))


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value as (its container, its key)."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from places(tree[key])


def _formats(path: Path) -> tuple[Callable[[Path], Any], Callable[[Path, str], Any]]:
    if path.suffix == ".safetensors":
        rest = _header_of(path)[1]
        return (lambda p: _header_of(p)[0]), (lambda p, text: _write_header(p, text, rest))
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        return (
            lambda p: json.loads(lines[-1]),
            lambda p, text: p.write_text("\n".join([*lines[:-1], text, ""])),
        )
    read = yaml.safe_load if path.suffix == ".yaml" else json.loads
    return (lambda p: read(p.read_text())), Path.write_text


def _header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _write_header(path: Path, header: str, rest: bytes) -> None:
    content = header.encode(errors="surrogatepass")
    path.write_bytes(struct.pack("<Q", len(content)) + content + rest)


# -- npz -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Array:
    """Another array in an npz file, of a kind of `ARRAYS`."""

    key: str
    kind: str

    def __call__(self, path: Path) -> None:
        _rewrite(path, {f"{self.key}.npy": ARRAYS[self.kind](_arrays(path)[self.key])})


@dataclass(frozen=True)
class Claim:
    """A header of an array that contradicts the data after it."""

    key: str
    shape: str
    descr: str = "'|u1'"
    fortran: str = "False"

    def __call__(self, path: Path) -> None:
        header = (
            f"{{'descr': {self.descr}, 'fortran_order': {self.fortran}, 'shape': {self.shape}}}"
        )
        _rewrite(path, {f"{self.key}.npy": _npy(header.encode(), b"\1" * 64)})


@dataclass(frozen=True)
class Member:
    """One more member of the archive, under any name, as a file or a link."""

    name: str
    content: bytes
    link: bool = False

    def __call__(self, path: Path) -> None:
        info = zipfile.ZipInfo(self.name)
        info.external_attr = 0o120777 << 16 if self.link else 0
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, self.content)


@dataclass(frozen=True)
class LinkMember:
    """A link to a file outside in place of an array."""

    key: str

    def __call__(self, path: Path) -> None:
        _rewrite(path, {f"{self.key}.npy": None})
        Member(f"{self.key}.npy", OUTSIDE.encode(), link=True)(path)


@dataclass(frozen=True)
class Bomb:
    """An array of many MiB of zeros, compressed to a thousandth of its size."""

    key: str
    mebibytes: int
    shape: Literal["many", "large"]

    def __call__(self, path: Path) -> None:
        size = self.mebibytes << 20
        shape = (size // 64, 8, 8) if self.shape == "many" else (1, size // 1024, 1024)
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
        start = _npy(header.encode(), b"")
        _rewrite(path, {f"{self.key}.npy": start})
        _swell(path, f"{self.key}.npy".encode(), start, self.mebibytes)


@dataclass(frozen=True)
class Size:
    """A wrong size of every array in the directory of an npz file."""

    size: int
    compressed: bool

    def __call__(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = content.find(b"PK\1\2")
        while at >= 0:
            place = at + (20 if self.compressed else 24)
            content[place : place + 4] = struct.pack("<I", self.size)
            at = content.find(b"PK\1\2", at + 4)
        path.write_bytes(content)


ARRAYS: dict[str, Callable[[Any], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda a: _saved(a[:0]),
    "shorter": lambda a: _saved(a[:-1]),
    "float": lambda a: _saved(a.astype(np.float64)),
    "wide": lambda a: _saved(a.astype(">i8")),
    "negative": lambda a: _saved(a.astype(np.int16) - 100),
    "largest": lambda a: _saved(np.full(a.shape, 2**63 - 1, np.int64)),
    "unsigned": lambda a: _saved(np.full(a.shape, 2**64 - 1, np.uint64)),
    "text": lambda a: _saved(a.astype("U3")),
    "structured": lambda a: _saved(np.zeros(len(a), [("x", "u1"), ("y", "u1")])),
    "scalar": lambda a: _saved(a.flat[0]),
    "six": lambda a: _saved(a.reshape(*a.shape, *[1] * (6 - a.ndim))),
    "fortran": lambda a: _saved(np.asfortranarray(a)),
    "colour": lambda a: _saved(np.repeat(a[..., None], 3, axis=-1)),
    "constant": lambda a: _saved(np.zeros_like(a)),
    "object": lambda a: _saved(np.array([{"a": 1}] * len(a), object)),
    "bytes": lambda _: b"no array at all",
    "nothing": lambda _: b"",
}


def _saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _npy(header: bytes, content: bytes) -> bytes:
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded + content


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _rewrite(path: Path, changed: dict[str, bytes | None]) -> None:
    """Rewrite the archive with other contents of some members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | changed
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


@cache
def _zeros() -> bytes:
    """Return a MiB of zeros, compressed so that it can be repeated."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)


@cache
def _crc(start: bytes, mebibytes: int) -> int:
    crc, zeros = zlib.crc32(start), bytes(1 << 20)
    for _ in range(mebibytes):
        crc = zlib.crc32(zeros, crc)
    return crc


def _swell(path: Path, name: bytes, start: bytes, mebibytes: int) -> None:
    """Replace the content of the last member of the archive by `start` and MiB of zeros."""
    with zipfile.ZipFile(path) as archive:
        others = {i.filename: archive.read(i) for i in archive.infolist()}
    del others[name.decode()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in others.items():
            archive.writestr(other, content)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    packed += _zeros() * mebibytes + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    sizes = (_crc(start, mebibytes), len(packed), len(start) + (mebibytes << 20), len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, *sizes)
    whole = path.read_bytes()
    end = whole.rfind(b"PK\5\6")
    counts, length, place = struct.unpack("<2I", whole[end + 12 : end + 20]), end, 0
    length, place = counts
    count = len(others) + 1
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, *sizes, 0, 0, 0, 0, place)
    directory = whole[place : place + length] + entry + name
    body = whole[:place] + local + name + packed
    final = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    path.write_bytes(body + directory + final)
