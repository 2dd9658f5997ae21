"""Data sets that Hugging Face's `datasets` knows by name, or has saved: from its cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.image_files import common_folder
from bigbatch_ue.data.source import PARTS, Part
from bigbatch_ue.data.table_files import ArrowFile, TableFile
from bigbatch_ue.data.tables import TableImages, tables_of_parts
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.runtime.errors import UserError, first_of
from bigbatch_ue.runtime.extras import require_extra


def open_hub(place: str, take: TakeConfig, download: bool) -> TableImages:
    """Open a data set of the hub from the cache, or a folder that `datasets` can load.

    Nothing but `download` lets it reach the hub, and no code of a data set is ever run.

    Args:
        place: name on the hub, a folder that `save_to_disk` wrote, or one of files in a layout
            that `load_dataset` knows.
        take: the splits and columns to take.
        download: whether what is not in the cache is fetched.

    Raises:
        UserError: `datasets` is not installed, the data set or a split is not there, and as for
            `tables_of_parts`.
    """
    require_extra("datasets", "hf", f"hf:{place}")
    splits = _load(place, take, download)
    tables: dict[Part, Sequence[TableFile]] = {}
    for part in PARTS:
        split = getattr(take, part)
        if split not in splits:
            raise UserError(
                f"hf:{place}: no split {split!r}, but {first_of(sorted(splits), 20)}; name the one "
                f"to use, data.take.{part}=NAME"
            )
        tables[part] = [ArrowFile(Path(file["filename"])) for file in splits[split].cache_files]
    others = sorted(set(splits) - {take.train, take.test})
    top = common_folder(table.path for own in tables.values() for table in own)
    return tables_of_parts(tables, top, take, {"splits that are not read": others})


def _load(place: str, take: TakeConfig, download: bool) -> Any:
    """Return the splits of a data set, a `DatasetDict`, whose tables are files in the cache."""
    import datasets

    folder = expand_path(place)
    remedy = "check the name" if download else "check the name, or add --download"
    try:
        with _offline(not download or folder.exists()), _quiet():
            if (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(folder))
            name = str(folder) if folder.exists() else place
            return datasets.load_dataset(name, take.config)
    except Exception as error:  # the library raises almost any of them
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"hf:{place}: cannot be loaded ({reason}); {remedy}") from None


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keep `datasets` from the hub in this context."""
    import datasets
    import huggingface_hub

    places = ((datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE"))
    former = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, offline or getattr(module, name))
    try:
        yield
    finally:
        for (module, name), value in zip(places, former, strict=True):
            setattr(module, name, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes and bars of `datasets` in this context."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
