from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.table.table import (
    CRITICAL_COLUMNS,
    CriticalBatch,
    critical_batch_of,
    curves,
    read_table,
    write_table,
)
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.findings import a_measured_table, a_table

FILES = ("table.csv", "table.parquet")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return a_measured_table()


@pytest.mark.parametrize("name", FILES)
def test_a_table_is_read_back(name: str, table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(table, tmp_path)
    again = read_table(tmp_path / name)
    pd.testing.assert_frame_equal(again, table)
    assert np.isinf(again["critical_batch"]).sum() == 2
    assert again["critical_batch"].isna().sum() == 1


@pytest.mark.parametrize("name", FILES)
def test_an_older_table_has_no_prediction(name: str, table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(table.drop(columns=list(CRITICAL_COLUMNS)), tmp_path)
    again = read_table(tmp_path / name)
    assert again[list(CRITICAL_COLUMNS)].isna().all(axis=None)
    for curve in curves(again):
        assert curve.predicted is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file; run `collect` first"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not a readable table"),
        (lambda path: path.write_text("dataset,seed\ndigits,1\n"), "missing column(s): arm"),
        (
            lambda path: path.write_text(path.read_text().replace("digits", "1,digits", 1)),
            "a value has the wrong type",
        ),
    ],
)
def test_a_damaged_table_is_named(
    damage: Callable[[Path], Any], message: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    write_table(table, tmp_path)
    path = tmp_path / "table.csv"
    damage(path)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert f"{path}: {message}" in str(error.value)


def test_a_curve_has_a_row_for_each_size_and_a_column_for_each_seed() -> None:
    table = a_table(("digits",), batches=(4, 8), seeds=2, budgets=("epochs",), failures=())
    table = table.assign(final_accuracy=table["effective_batch"] / 1000 + table["seed"] / 10)
    (curve,) = curves(table.drop(index=2))
    assert curve.batches.tolist() == [4, 8]
    assert curve.seeds.tolist() == [0, 1]
    assert curve.x.tolist() == [2, 3]
    np.testing.assert_allclose(curve.accuracy, [[0.004, 0.104], [np.nan, 0.108]])
    assert curve.title == "digits, protected: equal epochs"


def test_targets_of_a_run_are_averaged(table: pd.DataFrame) -> None:
    shifted = table.assign(
        target_seed=table["target_seed"] + 10, final_accuracy=table["final_accuracy"] + 0.1
    )
    for one, both in zip(curves(table), curves(pd.concat([table, shifted])), strict=True):
        np.testing.assert_allclose(both.accuracy, one.accuracy + 0.05)
        np.testing.assert_array_equal(both.critical, one.critical)


def test_the_median_and_the_middle_80_percent_of_runs() -> None:
    inf = np.inf
    assert critical_batch_of(np.full((2, 3), np.nan)) is None
    for values, expected in (
        ([np.nan, 7.0], CriticalBatch(7, 7, 7, 1, 0)),
        (range(11), CriticalBatch(5, 1, 9, 11, 0)),
        (range(10), CriticalBatch(4.5, 0, 9, 10, 0)),
        ([5.0, inf, 3.0, inf], CriticalBatch(inf, 3, inf, 4, 2)),
        ([inf, inf, inf], CriticalBatch(inf, inf, inf, 3, 3)),
    ):
        assert critical_batch_of(np.array(values, np.float64)) == expected


def test_a_curve_has_the_prediction_of_every_run(table: pd.DataFrame) -> None:
    epochs, steps = curves(table)
    expected = 10.0 * steps.batches[:, None] * np.arange(1, 6)
    expected[3, 4] = np.inf
    np.testing.assert_array_equal(steps.critical, expected)
    expected[0, 3] = np.nan
    np.testing.assert_array_equal(epochs.critical, expected)
    assert steps.predicted == CriticalBatch(1280, 320, 5120, 20, 1)
    assert epochs.predicted is not None
    assert epochs.predicted.runs == 19
