"""From run folders to the table: what is in it, and which runs are told of instead."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.table.collect import collect, read_collection, write_collection
from analysis.table.table import COLUMNS, CRITICAL, curves, read_table
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.runs import make_evaluated_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evaluated_run(tmp_path_factory.mktemp("collect"), "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "run"))


def reason(run: Path) -> str:
    """Why the run is not in the table."""
    collection = collect([run.parent])
    assert collection.table.empty
    (problem,) = collection.problems
    assert problem.run == run.name
    return problem.reason


def change(path: Path, **changed: Any) -> None:
    write_json(path, read_json(path) | changed)


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
    assert row["oscillation"] == pytest.approx(np.std(own["accuracies"][-2:]))
    assert row["tail_epochs"] == 2
    assert row["clean_accuracy"] == clean["final_accuracy"]
    assert row["noise_accuracy"] == noise["final_accuracy"]
    assert (row["effective_batch"], row["optimizer_steps"], row["images_seen"]) == (8, 50, 1200)
    assert (row["full_batch"], row["test_images"], row["chance"]) == (40, 360, 0.1)
    assert (row["budget"], row["lr_rule"], row["scope"]) == ("epochs", "none", "cluster")
    assert row["peak_memory_mib"] > 100
    assert row["run"] == "run"


def test_no_torch_is_imported(run: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from analysis.cli import main\n"
        f"main(['collect', {str(run.parent)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 rows, 0 of failed runs; 0 left out" in done.stdout
    command = f"python -m analysis collect {run.parent} --out {tmp_path / 'out'}"
    assert read_collection(tmp_path / "out").commands[-1] == command


def test_the_table_is_the_same_in_csv_and_parquet_and_read_back(run: Path, tmp_path: Path) -> None:
    collection = collect([run.parent])
    write_collection(collection, tmp_path / "out")
    for name in ("table.csv", "table.parquet"):
        pd.testing.assert_frame_equal(read_table(tmp_path / "out" / name), collection.table)
    again = read_collection(tmp_path / "out")
    pd.testing.assert_frame_equal(again.table, collection.table)
    assert again.settings == json.loads(json.dumps(collection.settings))
    assert again.settings["digits"]["generator"]["width"] == 4
    assert "bigbatch_ue" in again.versions
    assert again.commands == collection.commands


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"effective_batch": 16}, "effective_batch = 16, the run says 8"),
        ({"requested_batch": 9}, "requested_batch = 9"),
        ({"effective_batch_per_generator": [8, 8, 7]}, "effective_batch_per_generator"),
        ({"optimizer_steps": 49}, "optimizer_steps = 49, the run says 50"),
        ({"images_seen": 1}, "images_seen = 1"),
        ({"seed": 5}, "seed = 5"),
        ({"dataset": "pets"}, "dataset = pets"),
        ({"scope": "all"}, "scope = all"),
    ],
)
def test_a_result_that_disagrees_with_its_run_is_reported(
    changed: dict[str, Any], says: str, run: Path
) -> None:
    change(run / "result.json", **changed)
    assert says in reason(run)


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
    change(run / "result.json", noise_scale={"delta": other, "parameters": measured})
    collection = collect([run.parent])
    assert collection.problems == ()
    np.testing.assert_array_equal(collection.table[list(CRITICAL)], [expected] * 6)
    write_collection(collection, run.parent / "out")
    for name in ("table.csv", "table.parquet"):
        again = read_table(run.parent / "out" / name)
        pd.testing.assert_frame_equal(again, collection.table)


@pytest.mark.parametrize("result", [{}, {"noise_scale": None}])
def test_a_run_that_did_not_measure_its_noise_is_read(result: Any, run: Path) -> None:
    path = run / "result.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "noise_scale"} | result)
    table = collect([run.parent]).table
    assert len(table) == 6
    assert table[list(CRITICAL)].isna().all(axis=None)


@pytest.mark.parametrize("noise", [[1], {"parameters": {"value": 1.0}}, {"parameters": 7.0}])
def test_a_noise_scale_of_another_kind_is_reported(noise: Any, run: Path) -> None:
    change(run / "result.json", noise_scale=noise)
    assert "result.json: noise_scale is not readable" in reason(run)


def test_a_configuration_changed_afterwards_is_reported(run: Path) -> None:
    path = run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["batch"]["effective"] = 16
    path.write_text(yaml.safe_dump(content))
    assert "not what the run was made with" in reason(run)


def test_other_data_are_reported(run: Path) -> None:
    change(run / "run.json", data="0123456789ab")
    assert "the data set is not what the run was made with" in reason(run)


def test_fewer_logged_steps_are_reported(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    assert "metrics says steps = 49, the run says 50" in reason(run)


@pytest.mark.parametrize("name", ["clusters", "perturbations"])
def test_files_of_another_run_are_reported(name: str, run: Path) -> None:
    path = run / f"{name}.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, about | {"answer": "0" * 12})
    assert f"{name}.safetensors says answer = 000000000000" in reason(run)


def test_clusters_that_do_not_give_the_recorded_batch_are_reported(run: Path) -> None:
    path = run / "clusters.safetensors"
    tensors, about = read_tensors(path)
    tensors["assignment"] = tensors["assignment"].clamp(max=1).repeat(2)
    write_tensors(path, tensors, about)
    assert "optimizer_steps = 50, the run says 100" in reason(run)


def test_an_evaluation_of_another_run_is_reported(run: Path) -> None:
    path = run / "evaluation" / "results.json"
    write_json(path, [arm | {"run_seed": 7} for arm in read_json(path)])
    assert "run_seed = 7, the run says 0" in reason(run)


def test_a_batch_that_clusters_capped_is_reported_and_not_taken_for_what_it_is_not(
    tmp_path: Path,
) -> None:
    run = make_evaluated_run(
        tmp_path,
        "capped",
        "batch.extend=cap",
        "batch.effective=64",
        "evaluation.arms=[uc]",
        "evaluation.seeds=[0]",
        "evaluation.fractions=[1.0]",
    )
    assert "not a run at B = 64: clusters of" in reason(run)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("result.json", "training is not finished"),
        ("evaluation", "not evaluated"),
        ("metrics.jsonl", "metrics.jsonl: not readable"),
        ("perturbations.safetensors", "perturbations.safetensors: not readable"),
        ("run.json", "no such file"),
    ],
)
def test_what_is_missing_is_named(missing: str, says: str, run: Path) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert says in reason(run)


def test_a_run_that_is_there_twice_counts_once(run: Path) -> None:
    shutil.copytree(run, run.parent / "run-copy")
    collection = collect([run.parent])
    assert set(collection.table["run"]) == {"run"}
    assert {problem.run for problem in collection.problems} == {"run-copy"}
    assert "there twice" in collection.problems[0].reason


def test_controls_of_a_run_are_no_runs(run: Path) -> None:
    shutil.copytree(run, run.parent / "controls" / "random_surrogate")
    assert collect([run.parent]).problems == ()


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


def test_curves_have_a_row_for_each_size_and_a_column_for_each_seed(run: Path) -> None:
    table = collect([run.parent]).table
    one = table[table["arm"] == "protected"]
    accuracy = one["final_accuracy"]
    rows = [
        one.assign(effective_batch=size, seed=seed, final_accuracy=accuracy + size / 1000)
        for size, seed in ((4, 0), (4, 1), (8, 1))
    ]
    (curve,) = curves(pd.concat(rows, ignore_index=True))
    assert curve.batches.tolist() == [4, 8]
    assert curve.seeds.tolist() == [0, 1]
    assert curve.x.tolist() == [2, 3]
    assert np.isnan(curve.accuracy[1, 0])
    mean = accuracy.mean()
    np.testing.assert_allclose(curve.accuracy[[0, 0, 1], [0, 1, 1]] - mean, [0.004, 0.004, 0.008])
    assert curve.title == "digits, protected: equal epochs"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not a readable table"),
        (lambda path: path.write_text("dataset,seed\ndigits,1\n"), "lacks the column(s) arm"),
    ],
)
def test_a_bad_table_is_named(spoil: Callable[[Path], Any], says: str, run: Path) -> None:
    out = run.parent / "out"
    write_collection(collect([run]), out)
    spoil(out / "table.csv")
    with pytest.raises(UserError) as error:
        read_collection(out)
    assert says in str(error.value)
    assert "table.csv" in str(error.value)


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folders here"):
        collect([tmp_path])


def test_copies_beyond_number_change_nothing(run: Path) -> None:
    for number in range(100):
        copy = shutil.copytree(run, run.parent / f"run-{number:03d}")
        assert copy.exists()
    began = time.perf_counter()
    collection = collect([run.parent])
    print(f"101 runs in {time.perf_counter() - began:.2f} s")
    assert len(collection.table) == 6
    assert len(collection.problems) == 600
