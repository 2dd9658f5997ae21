import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.table.columns import COLUMNS, OPTIONAL
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


@pytest.mark.parametrize("name", FILES)
def test_what_a_table_of_another_program_lacks_is_said(
    name: str, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table[(table["target_seed"] == table["seed"]) & ~table["failed"]]
    needed = [column for column in COLUMNS if column not in OPTIONAL]
    write_table(table[needed].assign(accuracy_clean=0.9), tmp_path)
    again = read_table(tmp_path / name)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / name}: columns that are missing count as arm=protected, target_seed=0, "
        "lr_rule=none, scope=cluster, failed=False",
        f"{tmp_path / name}: columns that are not read: accuracy_clean",
    ]
    pd.testing.assert_frame_equal(again[needed], table[needed].reset_index(drop=True))
    for ours, theirs in zip(curves(again), curves(table), strict=True):
        np.testing.assert_array_equal(ours.accuracy, theirs.accuracy)
        assert ours.full == ours.tail_epochs == 0
        assert np.isnan([ours.clean, ours.noise]).all()


@pytest.mark.parametrize("name", FILES)
def test_the_oscillation_of_an_older_table_is_left_out_with_a_note(
    name: str, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(table.rename(columns={"detrended_oscillation": "oscillation"}), tmp_path)
    again = read_table(tmp_path / name)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / name}: the column oscillation is left out, because it includes the trend of "
        "a run; `collect` measures it anew, as detrended_oscillation"
    ]
    assert again["detrended_oscillation"].isna().all()
    for curve in curves(again):
        assert curve.oscillation.shape == curve.accuracy.shape
        assert np.isnan(curve.oscillation).all()


def test_a_table_of_today_is_read_without_a_note(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(table, tmp_path)
    read_table(tmp_path / "table.csv")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file; run `collect` first"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not a readable table"),
        (
            lambda path: path.write_text("dataset,seed\ndigits,1\n"),
            "7 columns missing: effective_batch",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("digits", "1,digits", 1)),
            "not a readable table (a line has more values than there are columns)",
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


def changed(table: pd.DataFrame, folder: Path, row: int, column: str, text: str) -> Path:
    """The CSV file of a table in which one value is another text."""
    write_table(table, folder)
    path = folder / "table.csv"
    content = pd.read_csv(path, dtype=str, keep_default_na=False)
    content.loc[row, column] = text
    content.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("column", "text", "what"),
    [
        (
            "final_accuracy",
            "98.5",
            "must be at most 1; it is a fraction, so divide per cent by 100",
        ),
        ("final_accuracy", "", "must be known unless the run failed"),
        ("peak_accuracy", "-0.1", "must be at least 0"),
        ("peak_accuracy", "half", "must be a valid number"),
        ("effective_batch", "0", "must be greater than or equal to 1"),
        ("effective_batch", "2.5", "must be a valid integer"),
        ("seed", "", "must be a valid integer"),
        ("budget", "epoch", "must be 'epochs' or 'steps'"),
        ("test_images", "0", "must be at least 1 unless the run failed"),
        ("failed", "", "must be true or false"),
        ("failed", "maybe", "must be true or false"),
        ("dataset", "", "String should have at least 1 character"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_line_and_column(
    column: str, text: str, what: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    path = changed(table, tmp_path, 5, column, text)
    with pytest.raises(UserError) as error:
        read_table(path)
    message = str(error.value)
    assert message.startswith(f"{path}: line 7, {column}={text!r}: ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "failed"), [("no", False), ("F", False), ("0", False), ("yes", True)]
)
def test_usual_spellings_of_a_boolean_are_read(
    text: str, failed: bool, table: pd.DataFrame, tmp_path: Path
) -> None:
    assert read_table(changed(table, tmp_path, 0, "failed", text))["failed"][0] == failed


@pytest.mark.parametrize(
    "column", ["chance", "test_images", "full_batch", "tail_epochs", "optimizer_steps"]
)
def test_what_the_records_of_a_curve_share_must_agree(
    column: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    changed, row = table.copy(), table.index[~table["failed"]][-1]
    changed.loc[row, column] = 0.07 if column == "chance" else 7
    changed.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(
        UserError, match=rf"line {row + 2}, {column}=.*: must be .*, as in the other"
    ):
        read_table(tmp_path / "table.csv")


def test_a_final_accuracy_above_the_peak_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    changed = table.copy()
    changed.loc[0, ["final_accuracy", "peak_accuracy"]] = 0.9, 0.8
    changed.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match=r"line 2, final_accuracy=.*: must be at most peak"):
        read_table(tmp_path / "table.csv")


def test_a_column_that_is_there_twice_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([table, table[["seed"]]], axis=1)
    twice.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match="column seed is there twice; keep one"):
        read_table(tmp_path / "table.csv")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_named(separator: str, table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "table.csv", index=False, sep=separator, decimal=",")
    message = f"its columns are separated by {separator!r}; save it with commas"
    with pytest.raises(UserError, match=re.escape(message)):
        read_table(tmp_path / "table.csv")


def test_a_decimal_comma_is_named(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "table.csv", index=False, decimal=",")
    with pytest.raises(UserError, match="must have a decimal point, not a comma"):
        read_table(tmp_path / "table.csv")


def test_a_pipe_in_place_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(UserError, match=r"table\.csv: not a file"):
        read_table(tmp_path / "table.csv")


def test_a_name_that_looks_like_a_missing_value_is_a_name(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    assert read_table(changed(table, tmp_path, 0, "dataset", "NA"))["dataset"][0] == "NA"


def test_a_record_counts_once_and_two_that_disagree_are_refused(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    write_table(pd.concat([table, table.iloc[:2]]), tmp_path)
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv"), table)
    other = table.iloc[:1].assign(final_accuracy=0.123)
    write_table(pd.concat([table, other]), tmp_path)
    lines = f"lines 2 and {len(table) + 2} are records of one target that disagree"
    with pytest.raises(UserError, match=rf"{lines} in final_accuracy; remove one"):
        read_table(tmp_path / "table.csv")


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
