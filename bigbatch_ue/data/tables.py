"""Images in tables, with the metadata of Hugging Face's `datasets` or without."""

import bisect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.encoded import EncodedImages, EncodedPart
from bigbatch_ue.data.image_files import Packed
from bigbatch_ue.data.labels import number_classes, require_classes
from bigbatch_ue.data.source import Labels, Part
from bigbatch_ue.data.table_files import TableFile
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError, first_of


@dataclass(frozen=True)
class Columns:
    """The columns that are taken from a table.

    Attributes:
        image: name of the column of images, either encoded bytes, or `bytes` and `path`.
        label: name of the column of labels.
        classes: name of each label; None if the table has none.
        unused: names of all others.
    """

    image: str
    label: str
    classes: tuple[str, ...] | None
    unused: tuple[str, ...]


def choose_columns(file: TableFile, take: TakeConfig) -> Columns:
    """Choose the columns of images and labels.

    They are those of the features `Image` and `ClassLabel`, if the table has the metadata of
    Hugging Face's `datasets`, else those of bytes and of whole numbers.

    Raises:
        UserError: none, or several, can be meant.
    """
    features = _features(file)
    images = {name for name, each in features.items() if each.get("_type") == "Image"}
    named = {name for name, each in features.items() if each.get("_type") == "ClassLabel"}
    schema = file.schema
    whole = [name for name in schema.names if _is_whole(schema.field(name).type)]
    packed = [name for name in schema.names if _is_packed(schema.field(name).type)]
    image = _choose(file, "image", packed, images, take.image)
    label = _choose(file, "label", whole, named, take.label)
    classes = tuple(map(str, features[label]["names"])) if label in named else None
    unused = tuple(name for name in schema.names if name not in (image, label))
    return Columns(image, label, classes, unused)


_KINDS = {
    "image": "images as bytes (Hugging Face's feature Image)",
    "label": "labels as whole numbers (Hugging Face's feature ClassLabel)",
}


def _choose(
    file: TableFile, what: str, able: list[str], preferred: set[str], wanted: str | None
) -> str:
    """Choose the one column that is meant, among those that are `able`."""
    names, kind = file.schema.names, _KINDS[what]
    if wanted in able:
        return wanted
    if wanted is not None:
        has = f"contains {file.schema.field(wanted).type}" if wanted in names else "is not there"
        raise UserError(
            f"{file.path}: column {wanted!r} (data.take.{what}) {has}; name one with {kind}, of "
            f"{first_of(names, 20)}"
        )
    possible = [name for name in able if name in preferred] or able
    if len(possible) > 1:
        raise UserError(
            f"{file.path}: {counted(len(possible), 'column')} with {kind}: {', '.join(possible)}; "
            f"name one, data.take.{what}={possible[0]}"
        )
    if not possible:
        raise UserError(f"{file.path}: no column with {kind}, only {first_of(names, 20)}; add one")
    return possible[0]


def _features(file: TableFile) -> dict[str, dict[str, Any]]:
    """Return the features that `datasets` has described in a file; none if it did not write it."""
    metadata = (file.schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file.path}: its metadata of Hugging Face is damaged") from None


def _is_whole(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))


def _is_packed(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(frozen=True)
class TableImages(EncodedImages):
    """Images in tables.

    Attributes:
        tables: of each part.
        columns: those that are taken from each.
        others: files of other splits.
        take: what is taken.
    """

    tables: Mapping[Part, Sequence[TableFile]] = field(default_factory=dict)
    columns: Columns = Columns("", "", None, ())
    others: Sequence[Path] = ()
    take: TakeConfig = field(default_factory=TakeConfig)


def tables_of_parts(
    tables: Mapping[Part, Sequence[TableFile]],
    top: Path,
    take: TakeConfig,
    left: Mapping[str, list[str]],
    others: Sequence[Path] = (),
) -> TableImages:
    """Make a source of tables.

    Args:
        tables: of each part.
        top: the folder of all files.
        take: the columns to take.
        left: names of what is left out below `top`, by reason.
        others: files of other splits.

    Raises:
        UserError: a damaged file, columns that cannot be told, or differ, or labels that are no
            classes.
    """
    files = [file for part in tables.values() for file in part]
    columns = choose_columns(files[0], take)
    for file in files[1:]:
        if choose_columns(file, take) != columns:
            raise UserError(
                f"{file.path}: has other columns or classes than {files[0].path}; make them alike"
            )
    parts = {part: _part_of_tables(own, columns) for part, own in tables.items()}
    every = [part.labels for part in parts.values()]
    classes = list(columns.classes or number_classes(files[0].path, every))
    for part, images in parts.items():
        if tables[part]:
            require_classes(tables[part][0].path, part, images.labels, len(classes))
    whole = {**left, "columns that are not read": list(columns.unused)}
    paths = [file.path for file in files]
    return TableImages(classes, parts, top, paths, whole, dict(tables), columns, others, take)


def _part_of_tables(tables: Sequence[TableFile], columns: Columns) -> EncodedPart:
    labels = [_labels(table, columns.label) for table in tables]
    whole = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    return EncodedPart(whole, _names(tables, columns), _Cursor(tables, columns.image).picture)


def _labels(table: TableFile, name: str) -> Labels:
    column = table.column(name)
    if column.null_count:
        raise UserError(
            f"{table.path}: {counted(column.null_count, 'row')} without a label in column "
            f"{name!r}; remove them"
        )
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.int64)


def _names(tables: Sequence[TableFile], columns: Columns) -> list[str]:
    """Name the images by their files, if these are known and all different, else by number."""
    count = sum(table.rows for table in tables)
    digits = max(5, len(str(count - 1)))
    numbers = [f"{index:0{digits}d}" for index in range(count)]
    if not tables or not _has_paths(tables[0], columns.image):
        return numbers
    found = [
        PurePath(path or "").name
        for table in tables
        for path in table.column(f"{columns.image}.path").to_pylist()
    ]
    if all(found) and len(set(found)) == count:
        return found
    return [
        f"{number}-{name}" if name else number for number, name in zip(numbers, found, strict=True)
    ]


def _has_paths(table: TableFile, image: str) -> bool:
    import pyarrow as pa

    kind = table.schema.field(image).type
    return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)


class _Cursor:
    """The place in the tables of a part that was read last: ascending rows are read once."""

    def __init__(self, tables: Sequence[TableFile], column: str) -> None:
        self._tables, self._column = tables, column
        self._starts = [0, *accumulate(table.rows for table in tables)]
        self._owner = self._table = -1
        self._first = 0
        self._images: Any = None
        self._batches: Iterator[tuple[int, Any]] = iter(())

    def picture(self, index: int) -> Packed:
        """Return the image file at an index."""
        table = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[table]
        self._seek(table, row)
        value, path = self._images[row - self._first].as_py(), self._tables[table].path
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None:
            return Packed(path, f"row {row}", content)
        outside = value.get("path") if isinstance(value, dict) else None
        if outside is None:
            raise UserError(f"{path}: row {row} has no image; remove it")
        raise UserError(
            f"{path}: row {row} only names a file, {outside}; embed the images with `datasets` "
            "(docs/files.md, Many images in one file), or use folder:PATH"
        )

    def _seek(self, table: int, row: int) -> None:
        """Read the batch that contains a row."""
        here = self._table == table and self._owner == os.getpid() and self._images is not None
        if not here or row < self._first:
            self._table, self._owner = table, os.getpid()
            self._batches = self._tables[table].batches([self._column], row)
        elif row < self._first + len(self._images):
            return
        for first, batch in self._batches:
            if row < first + len(batch):
                self._first, self._images = first, batch.column(0)
                return
        raise UserError(f"{self._tables[table].path}: ends before row {row}; restore it")
