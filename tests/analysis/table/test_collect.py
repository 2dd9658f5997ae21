import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.table.collect import collect, read_collection
from analysis.table.columns import COLUMNS
from analysis.table.run_folders import data_names
from analysis.table.table import CRITICAL_COLUMNS, curves, read_table
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.yaml_files import format_yaml, read_yaml
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.collected import change_record, reason_left_out
from tests.helpers.command_line import cli_of
from tests.helpers.runs import make_evaluated_run


def test_a_row_for_each_target_that_depends_on_the_batch(run: Path) -> None:
    table = collect([run.parent]).table
    assert list(table) == list(COLUMNS)
    arms = {"protected", "protected 50%", "shuffled clusters"}
    assert set(zip(table["arm"], table["target_seed"], strict=True)) == {
        (arm, seed) for arm in arms for seed in (3, 4)
    }
    row = table[(table["arm"] == "protected") & (table["target_seed"] == 4)].iloc[0]
    arms_recorded = read_json(run / "evaluation" / "results.json")
    own, clean, noise = (
        next(
            r for r in arms_recorded if (r["arm"], r["seed"], r["fraction"]) == (name, 4, fraction)
        )
        for name, fraction in (("uc", 1.0), ("clean", 0.0), ("random_noise", 1.0))
    )
    assert row["final_accuracy"] == own["final_accuracy"]
    assert row["peak_accuracy"] == max(own["accuracies"])
    assert row["tail_epochs"] == 2
    assert row["clean_accuracy"] == clean["final_accuracy"]
    assert row["noise_accuracy"] == noise["final_accuracy"]
    assert (row["effective_batch"], row["optimizer_steps"], row["images_seen"]) == (8, 10, 240)
    assert (row["full_batch"], row["test_images"], row["chance"]) == (40, 360, 0.1)
    assert (row["budget"], row["lr_rule"], row["scope"]) == ("epochs", "none", "cluster")
    assert row["peak_memory_mib"] > 100
    assert row["run"] == "run"


def test_the_command_writes_what_is_read_back(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    code, out, _ = cli_of(main, capsys)("collect", run.parent, "--out", folder)
    assert code == 0
    assert "6 rows, 0 of failed runs; 0 left out" in out
    collection, again = collect([run.parent]), read_collection(folder)
    for name in ("table.csv", "table.parquet"):
        pd.testing.assert_frame_equal(read_table(folder / name), collection.table)
    pd.testing.assert_frame_equal(again.table, collection.table)
    assert again.settings == json.loads(json.dumps(collection.settings))
    assert again.settings["digits"]["generator"]["width"] == 4
    assert "bigbatch_ue" in again.versions
    command = f"python -m analysis collect {run.parent} --out {folder}"
    assert again.commands == (*collection.commands, command)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.9, 0.1] * 4 + [0.7, 0.4, 0.5, 0.6], 0),
        ([0.9, 0.1] * 6 + [0.5, 0.6, 0.5, 0.6], math.sqrt(0.008 / 2)),
        ([0.9, 0.1] * 6 + [0.8, 0.8, 0.6, 0.6], math.sqrt(0.008 / 2)),
        ([0.9, 0.1] * 4 + [0.7, 0.3, 0.6, 0.3], math.sqrt(0.06)),
        ([0.9, 0.1] * 4, math.nan),
    ],
    ids=["a line", "a zigzag", "the same zigzag, falling", "three epochs", "two epochs"],
)
def test_oscillation_is_the_spread_around_the_line_of_the_last_quarter(
    accuracies: list[float],
    expected: float,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = run / "evaluation" / "results.json"
    write_json(path, [arm | {"accuracies": accuracies} for arm in read_json(path)])
    code, _, _ = cli_of(main, capsys)("collect", run.parent, "--out", tmp_path)
    assert code == 0
    table = read_collection(tmp_path).table
    assert len(table) == 6
    measured = table["detrended_oscillation"].to_numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-15)


def test_different_images_under_one_name_get_different_names(run: Path) -> None:
    def of(clinic: str, content: str) -> tuple[RunFiles, Config]:
        folder = run.parent / f"{clinic}-{content}"
        folder.mkdir()
        write_json(folder / "run.json", {"data": content})
        config = load_config("small", overrides=[f"data.name=folder:/{clinic}/images"])
        return RunFiles(folder), config

    def named(*runs: tuple[RunFiles, Config]) -> list[str]:
        return list(data_names(dict(runs)).values())

    a, b = of("a", "cells"), of("b", "teeth")
    assert named(a) == ["images"]
    assert named(a, b) == ["a-images", "b-images"]
    assert named(a, of("scratch", "cells")) == ["images", "images"]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"value": 90.5, "low": 60, "high": 120.0, "measurements": 9}, [90.5, 60, 120]),
        ({"value": 90.5, "low": 60.0, "high": None}, [90.5, 60, math.inf]),
        ({"value": None, "low": 60.0, "high": None}, [math.inf, 60, math.inf]),
        (None, [math.nan] * 3),
    ],
)
def test_the_noise_of_the_parameters_gradient_is_recorded(
    measured: Any, expected: list[float], run: Path
) -> None:
    other = {"value": 1.0, "low": 1.0, "high": 1.0}
    change_record(run / "result.json", noise_scale={"delta": other, "parameters": measured})
    collection = collect([run.parent])
    assert collection.problems == ()
    np.testing.assert_array_equal(collection.table[list(CRITICAL_COLUMNS)], [expected] * 6)


@pytest.mark.parametrize("result", [{}, {"noise_scale": None}])
def test_a_run_that_did_not_measure_its_noise_is_read(result: Any, run: Path) -> None:
    path = run / "result.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "noise_scale"} | result)
    table = collect([run.parent]).table
    assert len(table) == 6
    assert table[list(CRITICAL_COLUMNS)].isna().all(axis=None)


@pytest.mark.parametrize("noise", [[1], {"parameters": {"value": 1.0}}, {"parameters": 7.0}])
def test_a_malformed_noise_scale_is_reported(noise: Any, run: Path) -> None:
    change_record(run / "result.json", noise_scale=noise)
    assert "noise_scale" in reason_left_out(run)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("result.json", "training is not finished"),
        ("evaluation", "not evaluated; run `bigbatch-ue evaluate`"),
        ("metrics.jsonl", "metrics.jsonl: not readable"),
        ("perturbations.safetensors", "perturbations.safetensors: not readable"),
        ("run.json", "no such file"),
    ],
)
def test_what_is_missing_is_named(missing: str, message: str, run: Path) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert message in reason_left_out(run)


def test_a_duplicate_run_counts_once(run: Path) -> None:
    shutil.copytree(run, run.parent / "run-copy")
    collection = collect([run.parent])
    assert set(collection.table["run"]) == {"run"}
    assert {problem.run for problem in collection.problems} == {"run-copy"}
    assert "duplicate of another run (protected" in collection.problems[0].reason


def test_a_run_of_the_same_name_in_another_folder_is_not_lost(run: Path) -> None:
    shutil.copytree(run, run.parent.parent / "others" / "run")
    collection = collect([run.parent, run.parent.parent / "others"])
    assert len(collection.table) == 6
    assert [problem.run for problem in collection.problems] == ["run"] * 6


def test_controls_of_a_run_are_no_runs(run: Path) -> None:
    shutil.copytree(run, run / "controls" / "random_surrogate")
    assert collect([run.parent]).problems == ()


def test_runs_in_a_folder_of_another_with_the_name_of_controls_are_runs(run: Path) -> None:
    run.rename(run.parent / "controls")
    collection = collect([run.parent])
    assert set(collection.table["run"]) == {"controls"}
    shutil.copytree(run.parent / "controls", run.parent / "b" / "controls" / "mine")
    shutil.rmtree(run.parent / "controls")
    assert set(collect([run.parent]).table["run"]) == {"mine"}


def test_a_failed_cell_is_a_row_that_says_so(run: Path) -> None:
    (run / "config.yaml").rename(run / "cell.yaml")
    axes = {"dataset": "digits", "effective_batch": 8, "seed": 0, "budget": "epochs"}
    axes |= {"lr_rule": "none", "scope": "cluster"}
    outcome = {"state": "failed", "reason": f"{Path.home()}/mine.npz: no such file", "seconds": 1.0}
    write_json(run / "outcome.json", {"cell": axes | {"full": 40}, "outcome": outcome})
    table = collect([run.parent]).table
    assert table["failed"].all()
    assert set(table["arm"]) == {"protected", "protected 50%", "shuffled clusters"}
    assert set(table["reason"]) == {"~/mine.npz: no such file"}
    assert table["final_accuracy"].isna().all()
    (curve, *_) = curves(table)
    assert curve.failed.tolist() == [1]
    assert np.isnan(curve.accuracy).all()


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folders here"):
        collect([tmp_path])


def test_copies_beyond_number_change_nothing(run: Path) -> None:
    for number in range(30):
        copy = shutil.copytree(run, run.parent / f"run-{number:03d}")
        assert copy.exists()
    began = time.perf_counter()
    collection = collect([run.parent])
    print(f"31 runs in {time.perf_counter() - began:.2f} s")
    assert len(collection.table) == 6
    assert len(collection.problems) == 180


def test_targets_of_another_recipe_are_a_curve_of_their_own(run: Path, tmp_path: Path) -> None:
    """`evaluate RUN target.fit.epochs=60` adds to the results; its networks are not more seeds."""
    copy = tmp_path / "again" / "run"
    shutil.copytree(run, copy)
    results = copy / "evaluation" / "results.json"
    records = read_json(results)
    longer = [json.loads(json.dumps(record)) for record in records]
    for record in longer:
        record["recipe"]["target"]["fit"]["epochs"] = 60
        record["final_accuracy"] = record["accuracies"][-1] = 0.125
    write_json(results, [*records, *longer])
    table = collect([copy.parent]).table
    protected = table[table["arm"] == "protected"]
    assert protected["settings"].nunique() == 2
    own = collect([run.parent]).table
    (settings,) = own["settings"].unique()
    old = protected[protected["settings"] == settings]
    new = protected[protected["settings"] != settings]
    assert len(old) == len(new) == 2
    assert (new["final_accuracy"] == 0.125).all()
    assert (new["clean_accuracy"] == 0.125).all()
    assert (old["clean_accuracy"] != 0.125).all()


@pytest.mark.parametrize(
    "batches",
    [
        ("batch.schedule=[[0, 4], [3, 12]]", "batch.effective=12"),
        ("batch.schedule={ramp_from: 2, ramp_steps: 6}", "batch.effective=20"),
        ("batch.effective=auto",),
    ],
    ids=["list", "ramp", "auto"],
)
def test_a_schedule_is_at_its_mean_batch_on_a_curve_of_its_own(
    batches: tuple[str, ...], run: Path, tmp_path: Path
) -> None:
    own = make_evaluated_run(tmp_path / "own", "scheduled", *batches)
    shutil.move(own, run.parent / "scheduled")
    collection = collect([run.parent])
    assert collection.problems == ()
    by_run = dict(list(collection.table.groupby("run")))
    mean = read_json(run.parent / "scheduled" / "result.json")["effective_batch"]
    logged = [
        json.loads(line)["effective_batch"]
        for line in (run.parent / "scheduled" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(set(logged)) > 1 or batches == ("batch.effective=auto",)
    assert mean == math.floor(np.mean(logged) + 0.5)
    assert set(by_run["scheduled"]["effective_batch"]) == {mean}
    assert set(by_run["run"]["effective_batch"]) == {8}
    assert not set(by_run["scheduled"]["settings"]) & set(by_run["run"]["settings"])


def test_a_failed_cell_with_a_schedule_is_at_its_mean_batch(run: Path) -> None:
    config = read_yaml(run / "config.yaml")
    config["batch"]["schedule"] = {"ramp_from": 2, "ramp_steps": 6}
    (run / "config.yaml").write_text(format_yaml(config))
    outcome = {"state": "failed", "reason": "out of memory", "seconds": 1.0}
    axes = {**Config.model_validate(config).axes, "full": 40, "mean_batch": 6}
    write_json(run / "outcome.json", {"cell": axes, "outcome": outcome})
    table = collect([run.parent]).table
    assert set(table["effective_batch"]) == {6}
