"""Jobs of a sweep: which one runs which cell; killed, stopped and started again."""

import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from filelock import SoftFileLease

from analysis.table.collect import collect
from bigbatch_ue.cli.commands import main
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED
from bigbatch_ue.sweeps import jobs as module
from bigbatch_ue.sweeps.cells import Outcome, sweep_cells
from bigbatch_ue.sweeps.jobs import Job, claim_on, run_sweep
from bigbatch_ue.sweeps.progress import SweepProgress
from bigbatch_ue.sweeps.spec import load_sweep
from bigbatch_ue.sweeps.worker import Worker
from tests.helpers.forked import SERVER, Program
from tests.helpers.ranks import set_launcher_variables
from tests.helpers.sweeps import TINY, write, write_one_long_cell

WALL = ("images_per_second", "peak_memory_mib")


def start(config: Path, *arguments: str) -> Program:
    return Program(["-m", "bigbatch_ue", "sweep", "--config", str(config), *arguments])


def finish(process: Program) -> str:
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    return out + err


def table(config: Path) -> pd.DataFrame:
    collection = collect([config.parent / "sweep"])
    assert collection.problems == ()
    return collection.table.drop(columns=list(WALL))


def outcomes(config: Path) -> list[Path]:
    return sorted((config.parent / "sweep" / "cells").glob("*/outcome.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed sweep, and its output."""
    config = write(tmp_path_factory.mktemp("undisturbed"))
    return config, finish(start(config))


def test_a_sweep_trains_protects_and_evaluates_every_cell(undisturbed: tuple[Path, str]) -> None:
    config, printed = undisturbed
    found = table(config)
    assert sorted(zip(found["effective_batch"], found["seed"], strict=True)) == [
        (4, 0),
        (4, 1),
        (16, 0),
        (16, 1),
    ]
    assert found["optimizer_steps"].tolist() == [4] * 4
    assert found["final_accuracy"].between(0, 1).all()
    assert found["clean_accuracy"].between(0, 1).all()
    assert found["full_batch"].tolist() == [40] * 4
    for outcome in outcomes(config):
        assert (outcome.parent / "protected" / "digits.npz").exists()
        assert (outcome.parent / "evaluation" / "results.json").exists()
        assert not (outcome.parent / "evaluation" / "report.html").exists()  # drawn when asked for
    assert "4 cells: 4 finished, 0 failed, 0 claimed by other jobs" in printed
    assert "[4/4]" in printed


def test_cells_that_exist_are_skipped(
    undisturbed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in outcomes(config)}
    main(["sweep", "--config", str(config)])
    assert "4 finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in outcomes(config)} == before


def test_shards_of_which_one_is_killed_and_started_again_give_the_table_of_one(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    config = write(tmp_path)
    killed, other = (start(config, "--shard", f"{i}/2") for i in (1, 2))
    while not outcomes(config):
        assert killed.poll() is None
        time.sleep(0.1)
    time.sleep(random.uniform(0, 2))
    started = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    _, alive = psutil.wait_procs(started, timeout=20)
    for survivor in alive:
        survivor.kill()
    assert started
    assert not alive, "no process survives its sweep"
    printed = [killed.communicate()[0], finish(start(config, "--shard", "1/2")), finish(other)]
    did = [line.split()[1] for line in "".join(printed).splitlines() if "finished in" in line]
    assert len(did) == len(set(did))
    assert "finished in" in printed[-1]
    pd.testing.assert_frame_equal(table(config), table(undisturbed[0]))


def test_a_stopped_sweep_keeps_every_step_and_gives_its_cell_back(tmp_path: Path) -> None:
    """How it continues, under a launcher too, is shown in test_launchers."""
    config = write_one_long_cell(tmp_path)
    process = start(config)
    (cell,) = sweep_cells(load_sweep(config))
    while not cell.files.metrics.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert said.splitlines()[-1].startswith("error: stopped by ")
    (checkpoint,) = cell.files.folder.glob("checkpoints/*.safetensors")
    done = len(cell.files.metrics.read_text().splitlines())
    assert checkpoint.stem == f"step-{done:08d}"
    assert not outcomes(config)
    claim = tmp_path / "sweep" / "claims" / f"{cell.name}.lock"
    assert not claim.exists(), "another job may continue with it at once"


def test_a_cell_that_another_job_has_just_done_is_not_done_again(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    cell = sweep_cells(sweep)[0]
    write_json(cell.files.outcome, {"outcome": vars(Outcome("finished", "", 1.0))})
    with closing(Worker()) as worker:
        job = Job(sweep, worker, SweepProgress([cell], {cell.name: 1.0}), {})
        assert job.run_unclaimed(cell, claim_on(cell, tmp_path))
    assert not cell.files.log.exists()


def test_a_failed_cell_is_recorded_and_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigbatch_ue.sweeps.worker.get_context", lambda _: SERVER)
    broken = {"preset": "digits", "settings": {"target": {"weights": "file:/nowhere.pt"}}}
    config = write(tmp_path, datasets=[broken, "digits"], batches=[4], seeds=[0])
    done = run_sweep(load_sweep(config))
    states = [outcome.state for _, outcome in done if outcome]
    assert states == ["failed", "finished"]
    failed = next(outcome for _, outcome in done if outcome and not outcome.finished)
    assert failed.reason == "/nowhere.pt: no such file; check the path"
    rows = collect([tmp_path / "sweep"]).table
    assert rows["failed"].tolist().count(True) == 1
    assert "/nowhere.pt" in rows[rows["failed"]]["reason"].item()

    cell, _ = done[0]
    assert run_sweep(load_sweep(config))[0][1] == failed
    again = run_sweep(load_sweep(config), retry=True)[0][1]
    assert again is not None
    assert (again.reason, again.seconds != failed.seconds) == (failed.reason, True)
    assert "error: " in cell.files.log.read_text()


def test_all_runs_share_the_controls_of_a_target_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigbatch_ue.sweeps.worker.get_context", lambda _: SERVER)
    settings = {**TINY, "data": {**TINY["data"], "root": str(tmp_path / "data")}}
    settings["clusters"] = {"by": "labels"}
    seeds = {"run": 2, "target": [5, 6]}
    config = write(tmp_path, batches=[4], seeds=seeds, protect=False, settings=settings)
    run_sweep(load_sweep(config))
    found = table(config)
    assert found[["seed", "target_seed"]].to_numpy().tolist() == [[0, 5], [0, 6], [1, 5], [1, 6]]
    assert found["final_accuracy"].nunique() > 1
    for control in ("clean_accuracy", "noise_accuracy"):
        assert found.groupby("target_seed")[control].nunique().tolist() == [1, 1]
    trained = list((tmp_path / "data" / "targets").glob("*.json"))
    assert len(trained) == 4 + 2 + 2, "protected, clean and noise"


def test_a_cell_that_another_job_has_claimed_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    sweep = load_sweep(write(tmp_path, batches=[4], seeds=[0]))
    (cell,) = sweep_cells(sweep)
    claim = sweep.output / "claims" / f"{cell.name}.lock"
    claim.parent.mkdir(parents=True)
    with SoftFileLease(claim, lease_duration=module.LEASE_SECONDS):
        assert [outcome for _, outcome in run_sweep(sweep)] == [None]
    assert not cell.files.outcome.exists()


def test_a_stale_claim_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 30.0)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.2)
    done: list[str] = []

    def run(self: Worker, folder: Path, **_: Any) -> Outcome:
        done.append(folder.name)
        return Outcome("finished", "", 1.0)

    monkeypatch.setattr(Worker, "run", run)
    sweep = load_sweep(write(tmp_path, batches=[4], seeds=[0]))
    (cell,) = sweep_cells(sweep)
    claim = sweep.output / "claims" / f"{cell.name}.lock"
    claim.parent.mkdir(parents=True)
    with SoftFileLease(claim, lease_duration=1.0):
        elsewhere = claim.read_bytes().replace(os.uname().nodename.encode(), b"another-host")
    claim.write_bytes(elsewhere)
    run_sweep(sweep)
    assert done == [cell.name]


def test_a_bad_cell_stops_the_sweep_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="preset: unknown name 'cifar'"):
        run_sweep(load_sweep(write(tmp_path, datasets=["digits", "cifar"])))
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_under_a_launcher_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_launcher_variables(monkeypatch, 2)
    with pytest.raises(UserError, match="launcher: ENGINE"):
        run_sweep(load_sweep(write(tmp_path)))
