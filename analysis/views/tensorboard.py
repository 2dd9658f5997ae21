"""A sweep in TensorBoard: curves against B, and a row of the HPARAMS page for each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings.findings import Finding, Findings
from analysis.findings.sizes import summarise_sizes
from analysis.table.table import CURVE_COLUMNS
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.reporting.tensorboard import HparamsRow, Series, write_events
from bigbatch_ue.reporting.words import slugs

SETTINGS = ("dataset", "arm", "effective_batch", "seed", "budget", "lr_rule", "scope", "settings")
METRICS = ("final_accuracy", "peak_accuracy", "detrended_oscillation")


def write_tensorboard(table: pd.DataFrame, findings: Findings, folder: Path) -> None:
    """Write the TensorBoard files of a sweep, replacing `folder` as a whole.

    `curves` contains a TensorBoard run for each curve, whose scalars have B as their step. `runs`
    contains one for each run of the sweep, with its `SETTINGS` and `METRICS`; several targets are
    averaged.
    """
    with atomic_folder(folder) as temporary:
        names = slugs("-".join(finding.curve.key) for finding in findings.findings)
        for name, finding in zip(names, findings.findings, strict=True):
            write_events(temporary / "curves" / name, _scalars(finding, table))
        runs = _runs(table)
        for name, run in zip(slugs(map(_run_name, runs)), runs, strict=True):
            metrics = {} if run["failed"] else {metric: {0: run[metric]} for metric in METRICS}
            settings = {setting: run[setting] for setting in SETTINGS}
            row = HparamsRow(_run_name(run), settings, failed=run["failed"])
            write_events(temporary / "runs" / name, metrics, row=row)


def _scalars(finding: Finding, table: pd.DataFrame) -> dict[str, Series]:
    found = summarise_sizes(finding, table)

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
    """Return a record for each run of each arm, in the order of the curves."""
    keys = [*CURVE_COLUMNS, "effective_batch", "seed"]
    runs = table.groupby(keys, as_index=False, sort=True).agg(
        {"failed": "any", **dict.fromkeys(METRICS, "mean")}
    )
    return [{str(key): value for key, value in run.items()} for run in runs.to_dict("records")]


def _run_name(run: Mapping[str, Any]) -> str:
    curve = "-".join(run[name] for name in CURVE_COLUMNS)
    return f"{curve}-b{run['effective_batch']}-s{run['seed']}"
