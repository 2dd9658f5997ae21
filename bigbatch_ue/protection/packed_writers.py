"""Writers of a protected data set in the form it came from: Parquet files, or tar shards."""

import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL import Image

from bigbatch_ue.data.encoded import EncodedImages
from bigbatch_ue.data.image_files import decode
from bigbatch_ue.data.parquet import SUFFIX, open_parquet
from bigbatch_ue.data.source import Labels, Part, Pixels, to_hwc
from bigbatch_ue.data.table_files import TableFile
from bigbatch_ue.data.tables import TableImages
from bigbatch_ue.data.tar_files import BLOCK, Member, mapped
from bigbatch_ue.data.tars import CLASS_NAMES, Sample, TarImages, open_tars, read_samples
from bigbatch_ue.protection.writers import Originals
from bigbatch_ue.runtime.errors import UserError

_ROWS, _BYTES = 1000, 2**25
"""Rows of a row group, at most, and bytes beyond which it is written."""


@dataclass(frozen=True)
class ParquetWriter:
    """Parquet files with the columns, metadata and order of the source; other splits are copied."""

    originals: Originals

    def with_old_suffix(self) -> list[str]:
        """Return nothing: the images are rows."""
        return []

    def write(self, folder: Path, protected: Iterable[Pixels]) -> None:
        """Write the protected train images, and the other splits, below `folder`."""
        source, taken = self._source, self.originals.data.train.positions
        images, start = iter(protected), 0
        for table, path in self._files(folder, "train"):
            own = taken[(taken >= start) & (taken < start + table.rows)] - start
            _write_table(path, table.schema, _replaced(table, own, source.columns.image, images))
            start += table.rows
        _require_end(images)
        for table, path in self._files(folder, "test"):
            if table.path.suffix == SUFFIX:
                _copy(table.path, path)
            else:
                batches = table.batches(table.schema.names)
                _write_table(path, table.schema, (batch for _, batch in batches))
        for other in source.others:
            _copy(other, folder / other.relative_to(source.top))

    def read(self, folder: Path) -> Iterator[Pixels]:
        """Return an iterator over the written train images."""
        written = open_parquet(str(folder), self._source.take, ["train"])
        return _decoded(written, self._source.channels)

    @property
    def _source(self) -> TableImages:
        assert isinstance(self.originals.source, TableImages)
        return self.originals.source

    def _files(self, folder: Path, part: Part) -> Iterator[tuple[TableFile, Path]]:
        """Yield the tables of a part, and where they are written: as on the hub, if not Parquet."""
        source = self._source
        tables, word = source.tables[part], getattr(source.take, part)
        for number, table in enumerate(tables):
            name = f"data/{word}-{number:05d}-of-{len(tables):05d}{SUFFIX}"
            if table.path.suffix == SUFFIX:
                name = table.path.relative_to(source.top).as_posix()
            yield table, folder / name


def _replaced(
    table: TableFile, taken: Labels, image: str, protected: Iterator[Pixels]
) -> Iterator[Any]:
    """Yield record batches of the rows `taken`, ascending, with the protected images."""
    import pyarrow as pa

    position = table.schema.get_field_index(image)
    field = table.schema.field(image)
    for first, batch in table.batches(table.schema.names):
        rows = taken[(taken >= first) & (taken < first + len(batch))] - first
        batch = batch.take(pa.array(rows))
        values = [_as_png(each, next(protected)) for each in batch.column(position).to_pylist()]
        yield batch.set_column(position, field, pa.array(values, field.type))


def _as_png(value: Any, image: Pixels) -> Any:
    """Return the value of a row with another image: bytes, or bytes with the name of a file."""
    if not isinstance(value, dict):
        return _png(image)
    path = value.get("path")
    name = {"path": str(PurePosixPath(path).with_suffix(".png"))} if path else {}
    return {**value, **name, "bytes": _png(image)}


def _write_table(path: Path, schema: Any, batches: Iterable[Any]) -> None:
    """Write a Parquet file, in row groups small enough to be held in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        group: list[Any] = []
        for batch in batches:
            group.append(batch)
            if sum(map(len, group)) >= _ROWS or sum(each.nbytes for each in group) >= _BYTES:
                writer.write_table(pa.Table.from_batches(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))


@dataclass(frozen=True)
class TarWriter:
    """Tar shards with the names, keys and other members of the source; other splits are copied."""

    originals: Originals

    def with_old_suffix(self) -> list[str]:
        """Return nothing: only the suffix of a key changes."""
        return []

    def write(self, folder: Path, protected: Iterable[Pixels]) -> None:
        """Write the protected train images, and the other splits, below `folder`."""
        source = self._source
        images, taken = iter(protected), iter(self.originals.data.train.positions)
        number, following = 0, next(taken, None)
        for shard in source.shards["train"]:
            path = folder / shard.relative_to(source.top)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file, mapped(shard) as content:
                for sample in read_samples(shard, source.take, {}):
                    if sample.image is None or sample.label is None:
                        continue
                    if number == following:
                        _write_sample(file, shard, content, sample, next(images))
                        following = next(taken, None)
                    number += 1
                _end_tar(file)
        _require_end(images)
        for other in (*source.shards["test"], *source.others):
            _copy(other, folder / other.relative_to(source.top))
        if (source.top / CLASS_NAMES).is_file():
            _copy(source.top / CLASS_NAMES, folder / CLASS_NAMES)

    def read(self, folder: Path) -> Iterator[Pixels]:
        """Return an iterator over the written train images."""
        take = self._source.take
        if take.image is not None:
            take = take.model_copy(update={"image": png_suffix(take.image)})
        return _decoded(open_tars(str(folder), take, ["train"]), self._source.channels)

    @property
    def _source(self) -> TarImages:
        assert isinstance(self.originals.source, TarImages)
        return self.originals.source


def png_suffix(suffix: str) -> str:
    """Return the suffix of a member that becomes a PNG image: `seg.jpg` is then `seg.png`."""
    return f"{suffix.rpartition('.')[0]}.png".removeprefix(".")


def _write_sample(file: BinaryIO, shard: Path, content: Any, sample: Sample, image: Pixels) -> None:
    """Write the members of a sample: its image as PNG, the others as they are."""
    for suffix, member in sample.members.items():
        if suffix != sample.image:
            file.write(content[member.start : member.end])
            continue
        new = png_suffix(suffix)
        if new != suffix and new in sample.members:
            raise UserError(
                f"{shard}: {member.name} would be written as {new}, which its sample has already; "
                "rename that member"
            )
        file.write(_png_member(content, member, member.name[: -len(suffix)] + new, _png(image)))


def _png_member(content: Any, member: Member, name: str, image: bytes) -> bytes:
    """Return a member with another name and content, but the same owner, mode and time."""
    header = content[member.header : member.header + BLOCK]
    info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    info.name, info.size = name, len(image)
    return (
        info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        + image
        + bytes(-len(image) % BLOCK)
    )


def _end_tar(file: BinaryIO) -> None:
    """Write the mark of the end, and fill the last record."""
    file.write(bytes(2 * BLOCK))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _require_end(images: Iterator[Pixels]) -> None:
    """End an iterator whose images must all have been written."""
    if any(True for _ in images):
        raise ValueError("there are more protected images than places for them")


def _png(image: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(to_hwc(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def _decoded(written: EncodedImages, channels: int) -> Iterator[Pixels]:
    train = written.parts["train"]
    return (decode(train.picture(index), channels) for index in range(len(train)))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
