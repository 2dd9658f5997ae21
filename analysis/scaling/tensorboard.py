"""A scaling table in TensorBoard: curves against the effective batch."""

from pathlib import Path

import pandas as pd

from analysis.scaling.table import CURVE, fastest, workloads
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.reporting.tensorboard import write_events
from bigbatch_ue.reporting.words import slugs

_TAGS = {
    "speed/images_per_second": "images_per_s",
    "speed/seconds_per_step": "step_s",
    "speed/mfu": "mfu",
    "memory/peak_mib": "peak_memory_mib",
    "traffic/bytes_per_step": "bytes_per_step",
}


def write_scaling_tensorboard(table: pd.DataFrame, folder: Path) -> None:
    """Write the TensorBoard files of a scaling table, replacing `folder` as a whole.

    Each curve of each workload has a TensorBoard run, whose scalars have B as their step. Of
    several micro-batches, the fastest counts.

    Args:
        table: result of `scaling_table`.
        folder: output folder.
    """
    titled = list(workloads(fastest(table)))
    names = slugs(title for title, _ in titled)
    with atomic_folder(folder) as temporary:
        for workload, (_, rows) in zip(names, titled, strict=True):
            for curve, same in rows.groupby(list(CURVE), sort=False):
                batches = same["effective_batch"].tolist()
                scalars = {
                    tag: dict(zip(batches, same[name].tolist(), strict=True))
                    for tag, name in _TAGS.items()
                }
                write_events(temporary / workload / "-".join(map(str, curve)), scalars)
