"""Scaling curves against the effective batch, for TensorBoard."""

from pathlib import Path

import pandas as pd

from analysis.scaling import table as scaling
from analysis.views.tensorboard import _write
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.reporting.words import slugs

_SCALING = {
    "speed/images_per_second": "images_per_s",
    "speed/seconds_per_step": "step_s",
    "speed/mfu": "mfu",
    "memory/peak_mib": "peak_memory_mib",
    "traffic/bytes_per_step": "bytes_per_step",
}


def write_scaling_tensorboard(table: pd.DataFrame, folder: Path) -> None:
    """Write TensorBoard's files of a table of `scaling.scaling_table`, in the place of `folder`.

    There is a run for each curve of each workload, whose scalars have B as their step; of several
    micro-batches the fastest counts.
    """
    found = list(scaling.workloads(scaling.fastest(table)))
    names = slugs(title for title, _ in found)
    with atomic_folder(folder) as temporary:
        for workload, (_, rows) in zip(names, found, strict=True):
            for curve, same in rows.groupby(list(scaling.CURVE), sort=False):
                batches = same["effective_batch"].tolist()
                scalars = {
                    tag: dict(zip(batches, same[name].tolist(), strict=True))
                    for tag, name in _SCALING.items()
                }
                _write(temporary / workload / "-".join(map(str, curve)), scalars)
