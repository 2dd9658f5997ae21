"""The measurements of `bigbatch-ue bench` as a table: one row for each benchmark case."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from bigbatch_ue.config.names import MeasuredPath
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import first_problem
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName

RECORDS, TABLE = "records.jsonl", "scaling.csv"

ENGINES, PATHS = tuple(EngineName), tuple(MeasuredPath)[::-1]

WORKLOAD = ("device", "model", "size", "clusters", "generator_width")
"""Columns in which the rows of one workload, and so of one figure, agree."""

CURVE = ("engine", "ranks", "path", "precision")
"""Columns that distinguish the curves of a workload; along a curve, B grows."""

COLUMNS = (
    *("device", "engine", "ranks", "path", "effective_batch", "micro_batch"),
    *("images_per_s", "ratio_to_baseline", "step_s", "mfu", "peak_memory_mib", "bytes_per_step"),
    *("model", "size", "clusters", "generator_width", "precision", "repetitions"),
    *("images_per_s_low", "images_per_s_high", "ratio_low", "ratio_high"),
)
_CASE = [*WORKLOAD, *CURVE, "effective_batch", "micro_batch"]
_BASELINE_KEYS = ["session", "round", *WORKLOAD, "effective_batch"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Record(BaseModel):
    """One repetition of a benchmark case: the cost of an optimizer step.

    Other keys, such as those of earlier versions, are ignored.

    Attributes:
        session: identifier of the process; ratios are taken within a session only.
        round: number of the round over all cases.
        device: name of the device.
        engine: engine.
        ranks: number of ranks.
        path: `delta`, `engine` (ordinary accumulation) or `baseline` (the public code); or
            `target`, a step of a target's training, whose B is the target's own batch.
        model: surrogate, or the target.
        size: image size, in pixels.
        clusters: number of generators.
        generator_width: channels of the generators.
        precision: precision of the surrogate.
        effective_batch: B.
        micro_batch: images in a pass.
        images: images through the surrogate in a step, over all ranks.
        step_s: duration of a step, in seconds.
        images_per_s: images per second, over all ranks.
        model_flops: floating-point operations of a step.
        peak_flops: FLOP/s that the devices of all ranks reach in matrix products.
        peak_memory_mib: peak memory of the rank that needed most, in MiB.
        bytes_per_step: bytes sent between ranks.
    """

    session: str
    round: int
    device: str
    engine: EngineName
    ranks: Count
    path: MeasuredPath
    model: str
    size: Count
    clusters: Count
    generator_width: Count
    precision: str
    effective_batch: Count
    micro_batch: Count
    images: Count
    step_s: Positive
    images_per_s: Positive
    model_flops: Positive
    peak_flops: Positive
    peak_memory_mib: NonNegative
    bytes_per_step: NonNegative


def read_records(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Read the `records.jsonl` of each folder.

    An incomplete last line, which a killed benchmark leaves, is skipped.

    Returns:
        A row for each record, with its fields as columns; and a note for each skipped line.

    Raises:
        UserError: there are no records, or another line is invalid.
    """
    records: list[Record] = []
    notes: list[str] = []
    for path in dict.fromkeys(folder.resolve() / RECORDS for folder in folders):
        if not path.exists():
            raise UserError(f"{path}: not found; `bigbatch-ue bench` writes it")
        *lines, last = require_file(path).read_bytes().split(b"\n")
        if last and not _is_json(last):
            notes.append(f"{path}, line {len(lines) + 1}: incomplete, skipped")
            last = b""
        for number, line in enumerate([*lines, last], 1):
            if line:
                records.append(_record(line, f"{path}, line {number}"))
    if not records:
        raise UserError(f"{', '.join(map(str, folders))}: no records; run `bigbatch-ue bench`")
    return pd.DataFrame([vars(record) for record in records]), notes


def scaling_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each case, with `COLUMNS`, sorted by workload, curve and B.

    Values are medians over repetitions, and `low` and `high` the smallest and the largest value;
    memory is the largest value. A ratio divides images per second by those of the baseline in the
    same session, round and workload and at the same B; it is NaN without such a baseline. Of
    several baselines, the one with the same micro-batch counts, or else the fastest. `mfu` divides
    the FLOP/s of the model by the measured peak (Chowdhery et al., 2022).
    """
    speed = records["images_per_s"]
    values = records.assign(
        ratio=speed / _baseline(records),
        mfu=records["model_flops"] / records["step_s"] / records["peak_flops"],
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
    )
    return cases.sort_values(_CASE, key=_sort_key, ignore_index=True)[list(COLUMNS)]


def write_scaling(table: pd.DataFrame, folder: Path) -> Path:
    """Write `scaling.csv` and return its path."""
    path = folder / TABLE
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def workloads(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the title and the rows of each workload.

    A title is such as `resnet50, 224 px, 10 clusters on AMD EPYC, 2 cores`. It contains the width
    of the generators where workloads differ only in it.
    """
    widths = table.groupby(list(WORKLOAD[:-1]))["generator_width"].transform("nunique")
    for (device, model, size, clusters, width), rows in table.groupby(list(WORKLOAD), sort=False):
        suffix = f", width {width}" if widths[rows.index[0]] > 1 else ""
        yield f"{model}, {size} px, {clusters} clusters{suffix} on {device}", rows


def fastest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest of the rows that differ only in their micro-batch."""
    keys = [*WORKLOAD, *CURVE, "effective_batch"]
    best = rows.groupby(keys, sort=False)["images_per_s"].idxmax()
    return rows.loc[best.sort_values()]


def _record(line: bytes, where: str) -> Record:
    try:
        return Record.model_validate_json(line, strict=True)
    except ValidationError as error:
        reason = first_problem(error)
        raise UserError(f"{where}: invalid record ({reason}); remove the line") from None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _baseline(records: pd.DataFrame) -> pd.Series:
    """Return the images per second of the baseline of each record; NaN without one."""
    baselines = records[records["path"] == "baseline"]
    fastest_one, same_micro_batch = (
        records.join(baselines.groupby(keys)["images_per_s"].max().rename("best"), on=keys)["best"]
        for keys in (_BASELINE_KEYS, [*_BASELINE_KEYS, "micro_batch"])
    )
    on_a_path = records["path"] != MeasuredPath.TARGET
    return same_micro_batch.fillna(fastest_one).where(on_a_path)


def _sort_key(column: pd.Series) -> pd.Series:
    """Return the sort key of a column: engines and paths have their own order."""
    order = {"engine": ENGINES, "path": PATHS}.get(str(column.name))
    return column.map(order.index) if order else column
