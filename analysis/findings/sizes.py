"""A curve size by size: accuracy with its interval, instability, speed and memory."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.findings.findings import Finding
from analysis.fits.instability import InstabilityFit
from analysis.table.table import CriticalBatch, Floats, critical_batch_of, rows_of
from bigbatch_ue.reporting.statistics import half_width


@dataclass(frozen=True)
class SizeSummary:
    """The runs of one curve at one effective batch; NaN stands for an unknown number.

    Attributes:
        batch: effective batch.
        steps: optimizer steps of the generators.
        count: number of successful runs.
        failed: number of failed runs.
        mean: mean accuracy of the runs.
        low: lower end of the 95 % t interval of `mean`, at least 0.
        high: upper end of the interval, at most 1.
        std: standard deviation across seeds.
        oscillation: standard deviation within a run.
        images_per_second: speed of the training of the generators, mean.
        memory: peak in MiB, the largest.
        critical: critical batch that the gradient noise of these runs predicts; None if unknown.
    """

    batch: int
    steps: int
    count: int
    failed: int
    mean: float
    low: float
    high: float
    std: float
    oscillation: float
    images_per_second: float
    memory: float
    critical: CriticalBatch | None


def summarise_sizes(finding: Finding, table: pd.DataFrame | None = None) -> list[SizeSummary]:
    """Summarise each size of a curve; speed and memory come from the `table` of its runs."""
    curve = finding.curve
    speed = memory = pd.Series(dtype=float)
    if table is not None:
        by_size = rows_of(curve, table).groupby("effective_batch")
        speed, memory = by_size["images_per_second"].mean(), by_size["peak_memory_mib"].max()
    summaries = []
    for row, batch in enumerate(curve.batches.tolist()):
        accuracy = curve.accuracy[row][np.isfinite(curve.accuracy[row])]
        mean, low, high = _mean_and_interval(accuracy)
        summaries.append(
            SizeSummary(
                batch=batch,
                steps=int(curve.steps[row]),
                count=len(accuracy),
                failed=int(curve.failed[row]),
                mean=mean,
                low=low,
                high=high,
                std=_std(finding.seeds, row),
                oscillation=_std(finding.oscillation, row),
                images_per_second=float(speed.get(batch, math.nan)),
                memory=float(memory.get(batch, math.nan)),
                critical=critical_batch_of(curve.critical[row]),
            )
        )
    return summaries


def _std(fit: InstabilityFit | None, row: int) -> float:
    return math.nan if fit is None else float(fit.std[row])


def _mean_and_interval(accuracy: Floats) -> tuple[float, float, float]:
    count = len(accuracy)
    mean = float(np.mean(accuracy)) if count else math.nan
    if count < 2:
        return mean, math.nan, math.nan
    half = half_width(float(np.std(accuracy, ddof=1)), count)
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)
