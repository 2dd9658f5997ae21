"""The forms of a protected data set, and which of them a source has."""

from bigbatch_ue.data.encoded import EncodedImages
from bigbatch_ue.data.source import Source
from bigbatch_ue.data.tables import TableImages
from bigbatch_ue.data.tars import TarImages
from bigbatch_ue.protection.packed_writers import ParquetWriter, TarWriter
from bigbatch_ue.protection.writers import FileFormat, NpzWriter, PngWriter, Writer
from bigbatch_ue.runtime.errors import UserError

WRITERS: dict[FileFormat, type[Writer]] = {
    "png": PngWriter,
    "npz": NpzWriter,
    "parquet": ParquetWriter,
    "wds": TarWriter,
}


def choose_form(source: Source, form: FileFormat | None) -> FileFormat:
    """Return `form`, or that of the source if it is None.

    Raises:
        UserError: the source cannot be written in that form.
    """
    own: FileFormat = "npz"
    if isinstance(source, TableImages):
        own = "parquet"
    elif isinstance(source, TarImages):
        own = "wds"
    elif isinstance(source, EncodedImages):
        own = "png"
    if form in ("parquet", "wds") and form != own:
        raise UserError(f"form={form}: the images do not come in it; use png or npz")
    return form or own
