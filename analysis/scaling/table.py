"""What `bigbatch-ue bench` measured: a row for each case, with its spread and its baseline."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from bigbatch_ue.config.names import GradientPath
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName

RECORDS, TABLE = "records.jsonl", "scaling.csv"

ENGINES, PATHS = tuple(EngineName), tuple(GradientPath)[::-1]

WORKLOAD = ("device", "model", "size", "clusters", "generator_width")
"""What rows of one table or figure have in common."""

CURVE = ("engine", "ranks", "path", "precision")
"""What tells the curves of a workload apart; along one, B grows."""

COLUMNS = (
    *("device", "engine", "ranks", "path", "effective_batch", "micro_batch"),
    *("images_per_s", "ratio_to_baseline", "step_s", "mfu", "peak_memory_mib", "bytes_per_step"),
    *("model", "size", "clusters", "generator_width", "precision", "repetitions"),
    *("images_per_s_low", "images_per_s_high", "ratio_low", "ratio_high", "joules_per_image"),
)
_CASE = [*WORKLOAD, *CURVE, "effective_batch", "micro_batch"]
_PAIR = ["session", "round", *WORKLOAD, "effective_batch"]

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Known = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Record(BaseModel):
    """One repetition of a case: what an optimizer step takes.

    Attributes:
        session: one for each process run; ratios are taken within it only.
        round: of its rounds over all cases.
        device: in words.
        engine: as it was launched.
        ranks: processes.
        path: `delta`, `engine` (ordinary accumulation) or `baseline` (the public code's way).
        model: the surrogate.
        size: of the images, pixels.
        clusters: generators.
        generator_width: channels.
        precision: of the surrogate.
        effective_batch: B.
        micro_batch: images.
        images: through the surrogate in a step, over all ranks.
        step_s: seconds.
        images_per_s: over all ranks.
        model_flops: of a step.
        peak_flops: FLOP/s that the devices of all ranks reach in matrix products.
        peak_memory_mib: of the rank that took most.
        bytes_per_step: sent between ranks.
        energy_j: of a step; None where it is not known.
    """

    session: str
    round: int
    device: str
    engine: EngineName
    ranks: Count
    path: GradientPath
    model: str
    size: Count
    clusters: Count
    generator_width: Count
    precision: str
    effective_batch: Count
    micro_batch: Count
    images: Count
    step_s: Amount
    images_per_s: Amount
    model_flops: Amount
    peak_flops: Amount
    peak_memory_mib: Known
    bytes_per_step: Known
    energy_j: Known | None


def read_records(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Read `records.jsonl` of each folder; a last line that a killed bench left torn is dropped.

    Returns:
        A row for each record, with its fields as columns; and a note for each torn line.

    Raises:
        UserError: a folder without records, or any other line that is not one, by its number.
    """
    records: list[Record] = []
    notes: list[str] = []
    for path in dict.fromkeys(folder.resolve() / RECORDS for folder in folders):
        if not path.exists():
            raise UserError(f"{path}: no such file; `bigbatch-ue bench` writes it")
        *lines, last = path.read_bytes().split(b"\n")
        if last and not _is_json(last):
            notes.append(f"{path}, line {len(lines) + 1}: torn, left out")
            last = b""
        for number, line in enumerate([*lines, last], 1):
            if line:
                records.append(_record(line, f"{path}, line {number}"))
    if not records:
        raise UserError(f"{', '.join(map(str, folders))}: no records")
    return pd.DataFrame([vars(record) for record in records]).astype({"energy_j": float}), notes


def scaling_table(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each case, with `COLUMNS`, sorted by workload, curve and B.

    Values are medians over repetitions, `low` and `high` the smallest and the largest; of memory it
    is the largest. A ratio is of images per second to the baseline's of the same session, round,
    workload and B (of the same micro-batch if there is one, else of the fastest) and NaN without
    one. `mfu` is the model's FLOP/s by the measured peak (Chowdhery et al., 2022).
    """
    speed = records["images_per_s"]
    values = records.assign(
        ratio=speed / _baseline(records),
        mfu=records["model_flops"] / records["step_s"] / records["peak_flops"],
        joules=records["energy_j"] / records["images"],
    )
    cases = values.groupby(_CASE, as_index=False).agg(
        images_per_s=("images_per_s", "median"),
        ratio_to_baseline=("ratio", "median"),
        step_s=("step_s", "median"),
        mfu=("mfu", "median"),
        peak_memory_mib=("peak_memory_mib", "max"),
        bytes_per_step=("bytes_per_step", "median"),
        repetitions=("images_per_s", "size"),
        images_per_s_low=("images_per_s", "min"),
        images_per_s_high=("images_per_s", "max"),
        ratio_low=("ratio", "min"),
        ratio_high=("ratio", "max"),
        joules_per_image=("joules", "median"),
    )
    return cases.sort_values(_CASE, key=_rank, ignore_index=True)[list(COLUMNS)]


def write_scaling(table: pd.DataFrame, folder: Path) -> Path:
    """Write `scaling.csv`; returns its path."""
    path = folder / TABLE
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def workloads(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each workload under its title.

    Such as `resnet50, 224 px, 10 clusters on AMD EPYC, 2 cores`; the width of the generators is in
    it where only that tells workloads apart.
    """
    widths = table.groupby(list(WORKLOAD[:-1]))["generator_width"].transform("nunique")
    for (device, model, size, clusters, width), rows in table.groupby(list(WORKLOAD), sort=False):
        more = f", width {width}" if widths[rows.index[0]] > 1 else ""
        yield f"{model}, {size} px, {clusters} clusters{more} on {device}", rows


def fastest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ in nothing but their micro-batch, the fastest."""
    what = [*WORKLOAD, *CURVE, "effective_batch"]
    best = rows.groupby(what, sort=False)["images_per_s"].idxmax()
    return rows.loc[best.sort_values()]


def _record(line: bytes, where: str) -> Record:
    try:
        return Record.model_validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {': '.join(filter(None, (what, first['msg'])))}") from None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _baseline(records: pd.DataFrame) -> pd.Series:
    """Images per second of the baseline of each record; NaN without one."""
    baselines = records[records["path"] == "baseline"]
    found = {}
    for keys in (_PAIR, [*_PAIR, "micro_batch"]):
        best = baselines.groupby(keys)["images_per_s"].max().rename("best")
        found[len(keys)] = records.join(best, on=keys)["best"]
    loose, same = (found[length] for length in sorted(found))
    return same.fillna(loose)


def _rank(column: pd.Series) -> pd.Series:
    """What to sort a column by: engines and paths in their own order."""
    order = {"engine": ENGINES, "path": PATHS}.get(str(column.name))
    return column.map(order.index) if order else column
