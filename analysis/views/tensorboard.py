"""What TensorBoard shows of a sweep: curves against B, and a row for each run under HPARAMS."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from analysis.findings.findings import Finding, Findings, sizes
from analysis.table.table import CURVE_COLUMNS
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.reporting.words import slugs

SETTINGS = ("dataset", "arm", "effective_batch", "seed", "budget", "lr_rule", "scope", "settings")
METRICS = ("final_accuracy", "peak_accuracy", "oscillation")

Series = Mapping[int, float]


def write_tensorboard(table: pd.DataFrame, findings: Findings, folder: Path) -> None:
    """Write TensorBoard's files, in the place of whatever `folder` held.

    In `curves` there is a run for each curve, whose scalars have B as their step; in `runs` one
    for each run of the sweep, the mean of its targets, with its `SETTINGS` and `METRICS`.
    """
    with atomic_folder(folder) as temporary:
        names = slugs("-".join(finding.curve.key) for finding in findings.findings)
        for name, finding in zip(names, findings.findings, strict=True):
            scalars = _scalars(finding, table)
            _write(temporary / "curves" / name, scalars)
        runs = _runs(table)
        for name, run in zip(slugs(map(_run_name, runs)), runs, strict=True):
            metrics = {} if run["failed"] else {name: {0: run[name]} for name in METRICS}
            _write(temporary / "runs" / name, metrics, _session(run))


def _scalars(finding: Finding, table: pd.DataFrame) -> dict[str, Series]:
    found = sizes(finding, table)

    def of(name: str) -> Series:
        return {size.batch: getattr(size, name) for size in found}

    scalars = {
        "accuracy/mean": of("mean"),
        "instability/seeds": of("std"),
        "instability/oscillation": of("oscillation"),
        "speed/images_per_second": of("images_per_second"),
        "memory/peak_mib": of("memory"),
        "critical_batch/predicted": {s.batch: s.critical.value for s in found if s.critical},
    }
    if finding.mean is not None:
        x, at = finding.curve.x, np.log2(finding.mean.at)
        batches = finding.curve.batches.tolist()
        for tag, values in (("fit", "mean"), ("low", "low"), ("high", "high")):
            fitted = np.interp(x, at, getattr(finding.mean, values))
            scalars[f"accuracy/{tag}"] = dict(zip(batches, fitted.tolist(), strict=True))
    return scalars


def _runs(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A record for each run of each arm, in the order of the curves."""
    what = [*CURVE_COLUMNS, "effective_batch", "seed"]
    runs = table.groupby(what, as_index=False, sort=True).agg(
        {"failed": "any", **dict.fromkeys(METRICS, "mean")}
    )
    return [{str(key): value for key, value in run.items()} for run in runs.to_dict("records")]


def _run_name(run: Mapping[str, Any]) -> str:
    curve = "-".join(run[name] for name in CURVE_COLUMNS)
    return f"{curve}-b{run['effective_batch']}-s{run['seed']}"


def _session(run: Mapping[str, Any]) -> list[Summary]:
    """What makes a run a row of the HPARAMS page, and closes it."""
    status = STATUS_FAILURE if run["failed"] else STATUS_SUCCESS
    ended = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
    end = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(ended),
        tensor=metadata.NULL_TENSOR,
    )
    start = hparams_pb({name: run[name] for name in SETTINGS}, trial_id=_run_name(run))
    return [start, Summary(value=[end])]


def _write(folder: Path, scalars: Mapping[str, Series], summaries: Iterable[Summary] = ()) -> None:
    """Write one run; a value that is not known leaves a gap."""
    writer = EventFileWriter(str(folder))
    now = time.time()
    for summary in summaries:
        writer.add_event(Event(wall_time=now, summary=summary))
    for tag, series in scalars.items():
        for step, value in series.items():
            if math.isfinite(value):
                point = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.add_event(Event(wall_time=now, step=step, summary=point))
    writer.close()
