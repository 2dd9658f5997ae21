import math

import numpy as np
import pandas as pd
import pytest

from analysis.findings.findings import Findings
from analysis.findings.sizes import summarise_sizes
from analysis.table.table import CriticalBatch
from tests.helpers.findings import a_finding


def test_sizes_hold_means_t_intervals_failures_speed_and_memory(
    table: pd.DataFrame, findings: Findings
) -> None:
    digits = findings.findings[2]
    first, *_, last = summarise_sizes(digits, table)
    values = digits.curve.accuracy[0][np.isfinite(digits.curve.accuracy[0])]
    half = 3.182446 * values.std(ddof=1) / 2
    assert (first.batch, first.steps, first.count, first.failed) == (2, 1400, 4, 1)
    assert (first.mean, first.low) == pytest.approx((values.mean(), values.mean() - half))
    assert first.std == pytest.approx(values.std(ddof=1))
    assert last.images_per_second == pytest.approx(300 * 256**0.4)
    assert last.memory == pytest.approx(210 + 1.7 * 256 + 4)


def test_a_single_run_has_no_interval_and_a_missing_table_no_speed() -> None:
    (size, *_) = summarise_sizes(a_finding(seeds=1))
    assert size.mean == pytest.approx(0.3)
    assert all(math.isnan(value) for value in (size.low, size.high, size.memory))


def test_a_size_has_the_prediction_of_its_runs(
    measured_table: pd.DataFrame, measured_findings: Findings
) -> None:
    _, steps = measured_findings.findings
    first, *_, last = summarise_sizes(steps, measured_table)
    assert first.critical == CriticalBatch(480, 160, 800, 5, 0)
    assert last.critical == CriticalBatch(3840, 1280, math.inf, 5, 1)
