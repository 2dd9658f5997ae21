"""Files with tables: Parquet files, and the Arrow files of the cache of `datasets`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bigbatch_ue.runtime.errors import UserError

_ROWS = 64
"""Rows that are in memory at a time."""


class TableFile(Protocol):
    """A file with a table."""

    @property
    def path(self) -> Path:
        """The path of the file."""

    @property
    def schema(self) -> Any:
        """The pyarrow schema."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def column(self, name: str) -> Any:
        """Read a small column whole, as a pyarrow array; `image.path` is a field of a column."""

    def batches(self, columns: list[str], start: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield record batches of few rows, each with its first row, from that with row `start`."""


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file; a row group is read page by page, however large it is."""

    path: Path

    @cached_property
    def _file(self) -> Any:
        import pyarrow.parquet as pq

        with _naming(self.path):
            return pq.ParquetFile(self.path, memory_map=True, pre_buffer=False)

    @property
    def schema(self) -> Any:
        """The pyarrow schema."""
        return self._file.schema_arrow

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    def column(self, name: str) -> Any:
        """Read a small column whole, as a pyarrow array."""
        outer, _, inner = name.partition(".")
        with _naming(self.path):
            column = self._file.read([name], use_threads=False)[outer].combine_chunks()
        return column.field(inner) if inner else column

    def batches(self, columns: list[str], start: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield record batches of few rows, each with its first row, from that with row `start`."""
        meta, first = self._file.metadata, 0
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            if start < first + rows:
                with _naming(self.path):
                    for batch in self._file.iter_batches(_ROWS, [group], columns, False):
                        if start < first + len(batch):
                            yield first, batch
                        first += len(batch)
            else:
                first += rows


@dataclass(frozen=True)
class ArrowFile:
    """A file of Arrow's stream format, mapped into memory."""

    path: Path

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa

        with _naming(self.path):
            return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()

    @property
    def schema(self) -> Any:
        """The pyarrow schema."""
        return self._table.schema

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def column(self, name: str) -> Any:
        """Return a column as a pyarrow array."""
        import pyarrow as pa

        outer, _, inner = name.partition(".")
        chunks = self._table[outer].chunks
        parts = [chunk.field(inner) for chunk in chunks] if inner else chunks
        return pa.concat_arrays(parts) if parts else pa.array([])

    def batches(self, columns: list[str], start: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield record batches of few rows, each with its first row, from that with row `start`."""
        first = start
        for batch in self._table.select(columns).slice(start).to_batches(_ROWS):
            yield first, batch
            first += len(batch)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into an error that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); restore or remove it") from None
