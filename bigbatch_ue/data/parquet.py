"""Parquet files in the layout of the Hugging Face hub: `train-00000-of-00002.parquet`."""

from collections.abc import Sequence

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.shards import find_shards
from bigbatch_ue.data.source import PARTS, Part
from bigbatch_ue.data.table_files import ParquetFile, TableFile
from bigbatch_ue.data.tables import TableImages, tables_of_parts
from bigbatch_ue.runtime.extras import require_extra

SUFFIX = ".parquet"


def open_parquet(place: str, take: TakeConfig, parts: Sequence[Part] = PARTS) -> TableImages:
    """Open the Parquet files of a folder or pattern.

    Raises:
        UserError: pyarrow is not installed, and as for `find_shards` and `tables_of_parts`.
    """
    require_extra("pyarrow", "hf", f"parquet:{place}")
    shards = find_shards(place, SUFFIX, take, parts)
    tables: dict[Part, Sequence[TableFile]] = {
        part: [ParquetFile(path) for path in shards.parts[part]] for part in PARTS
    }
    return tables_of_parts(tables, shards.top, take, shards.left, shards.others)
