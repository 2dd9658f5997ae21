"""Training under wandb and MLflow, whose files are read back and compared with TensorBoard's."""

import json
import os
import shutil
import signal
import sys
import time
from getpass import getuser
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname

import psutil
import pytest
from accelerate import PartialState

from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.runs.folder import Run, RunFiles
from bigbatch_ue.runs.trackers import TrackedRun, open_trackers, require_trackers
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train
from tests.helpers.command_line import cli_of
from tests.helpers.forked import Program, run_ranks
from tests.helpers.runs import TINY, make_run, tiny
from tests.helpers.tracked import mlflow_runs, tensorboard_scalars, wandb_runs

ALL = "tracking=[tensorboard, wandb, mlflow]"
BOTH = (TrackerName.WANDB, TrackerName.MLFLOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return train(tiny(folder, ALL))


def test_wandb_has_the_scalars_of_tensorboard_and_the_pictures(run: Run) -> None:
    (tracked,) = wandb_runs(run.folder)
    scalars = tensorboard_scalars(run.tensorboard)
    assert len(scalars) > 6 * 7
    assert tracked.scalars == pytest.approx(scalars, rel=1e-6)
    assert set(tracked.pictures) == {("perturbations", step) for step in (2, 4, 6)}
    assert tracked.labels == {"group": "run", "stage": "training", "host": "", "exit": "0"}


def test_mlflow_has_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracked,), (other,) = mlflow_runs(run.folder / "mlflow", monkeypatch), wandb_runs(run.folder)
    assert tracked.scalars == pytest.approx(other.scalars)
    assert tracked.pictures.keys() == other.pictures.keys()
    for key, picture in tracked.pictures.items():
        assert (picture == other.pictures[key]).all()
        assert picture.shape == (19, 19, 3)  # 2 x 2 of 8 pixels, and lines between them
        assert len(set(picture.flatten())) > 10
    assert tracked.labels["state"] == "FINISHED"
    assert tracked.name == other.name == "run"


def test_settings_are_parameters_without_places_and_names(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tracked,), (other,) = mlflow_runs(run.folder / "mlflow", monkeypatch), wandb_runs(run.folder)
    own = {key: value for key, value in other.settings.items() if key != "_wandb"}
    assert tracked.settings == {key: str(value) for key, value in own.items()}
    assert (own["batch.effective"], own["data.name"], own["clusters.count"]) == (8, "digits", 3)
    assert not [key for key in own if key.startswith(("output", "data.root", "target"))]
    assert tracked.labels["user"] == "unknown unknown bigbatch-ue"
    sent = [path.read_bytes() for path in run.folder.rglob("*.wandb")]
    sent += [
        path.read_bytes() for path in (run.folder / "mlflow").glob("*/*/*/*") if path.is_file()
    ]
    private = (str(run.folder), str(Path.home()), gethostname(), getuser(), sys.executable)
    words = [word.encode() for word in private if len(word) > 4]
    assert words
    assert not [word for word in words for content in sent if word in content]


def test_files_stay_in_the_folder_and_the_environment_as_it_was(run: Run) -> None:
    assert (run.folder / "wandb").is_dir()
    assert (run.folder / "mlflow").is_dir()
    assert not [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "TRACKIO_"))]
    ids = json.loads(run.trackers.read_text())
    assert {name: list(each) for name, each in ids.items()} == {
        "wandb": ["training"],
        "mlflow": ["training"],
    }


def test_trackers_change_no_result_and_may_differ_when_resumed(run: Run, folder: Path) -> None:
    assert train(tiny(folder)).answer == run.answer
    other = train(tiny(folder, "tracking=[]", name="untracked"))
    assert other.perturbations.read_bytes()[-500:] == run.perturbations.read_bytes()[-500:]
    assert not other.tensorboard.exists()
    assert not other.trackers.exists()


def test_a_file_of_weights_is_shown_without_its_folder() -> None:
    config = load_config(
        overrides=["surrogate.weights=file:/home/zoe/w.pt", "data.name=folder:/home/zoe/cats"]
    )
    assert config.shown["surrogate.weights"] == "file:w.pt"
    assert config.shown["data.name"] == "cats"
    assert "zoe" not in str(config.shown)


def test_a_killed_run_goes_on_in_the_same_runs_and_repeats_no_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*TINY, ALL, "budget.steps=120", "checkpoint.every=40")
    config = tiny(folder, *settings, name="killed")
    places = [f"data.root={config.data.root}", f"output={config.output}"]
    process = Program(["-m", "bigbatch_ue.train", "--preset", "digits", *settings, *places])
    metrics = config.run_folder / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) > 50:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    logged = len(metrics.read_text().splitlines())
    assert 50 < logged < 120
    ids = (config.run_folder / "trackers.json").read_text()
    train(config, resume=True)
    assert (config.run_folder / "trackers.json").read_text() == ids
    (tracked,) = mlflow_runs(config.run_folder / "mlflow", monkeypatch)
    for tag in ("lr", "loss/mean"):
        steps = tracked.order[tag]
        assert steps == sorted(set(steps))
        assert set(range(120)) - set(steps) <= {logged - 1}  # under way when the process died
    assert sorted(step for _, step in tracked.pictures) == [40, 80, 120]
    first, second = wandb_runs(config.run_folder)
    assert first.own_id == second.own_id == json.loads(ids)["wandb"]["training"]
    assert second.order["lr"] == list(range(logged, 120))
    assert first.order["lr"] == list(range(len(first.order["lr"])))
    assert len(first.order["lr"]) <= logged
    assert second.settings["budget.steps"] == 120


def test_a_tracker_that_is_added_when_resuming_begins_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the steps of a process that it has not seen."""
    PartialState()
    tracked = TrackedRun.of_training(RunFiles(folder / "late"), {})
    with open_trackers([TrackerName.MLFLOW], tracked, logged=5) as trackers:
        for step in (3, 4, 5):
            trackers.scalars(step, {"a": step})
    with open_trackers([TrackerName.MLFLOW], tracked, logged=6) as trackers:
        for step in (4, 5, 6):
            trackers.scalars(step, {"a": step})
    (found,) = mlflow_runs(folder / "late" / "mlflow", monkeypatch)
    assert found.order["a"] == [3, 4, 5, 6]


def test_values_that_are_not_finite_leave_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PartialState()
    with open_trackers(BOTH, TrackedRun.of_training(RunFiles(tmp_path / "a"), {})) as trackers:
        for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0)):
            trackers.scalars(step, {"a": value, "b": 0.0})
    for (found,) in (
        mlflow_runs(tmp_path / "a" / "mlflow", monkeypatch),
        wandb_runs(tmp_path / "a"),
    ):
        assert found.order["a"] == [0, 3]
        assert found.order["b"] == [0, 1, 2, 3]


def test_a_server_that_is_gone_is_said_once_and_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = train(tiny(folder, ALL, name="gone"))
    said = capsys.readouterr().err
    assert said.count("warning: tracking=mlflow: MlflowException: API request to") == 1
    assert run.finished
    assert wandb_runs(run.folder)[0].order["lr"] == list(range(6))
    assert list(json.loads(run.trackers.read_text())) == ["wandb"]


def test_trackers_that_fail_later_are_left_out_and_do_not_spoil_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PartialState()
    files = RunFiles(tmp_path / "a")
    with open_trackers(BOTH, TrackedRun.of_training(files, {})) as trackers:
        trackers.scalars(0, {"a": 0.0})
        assert not trackers.failed
        shutil.rmtree(files.folder / "mlflow")
        trackers.scalars(1, {"a": 1.0})
        assert trackers.failed == {TrackerName.MLFLOW}
        (core,) = [each for each in psutil.Process().children() if "wandb" in each.name()]
        core.kill()
        core.wait()
        for step in range(2, 50):
            trackers.scalars(step, {"a": 1.0})
            time.sleep(0.01)
        assert trackers.failed == set(BOTH)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in said] == ["tracking=mlflow", "tracking=wandb"]
    assert all(line.endswith("going on without it, and all results are kept") for line in said)
    with open_trackers(BOTH, TrackedRun.of_training(RunFiles(tmp_path / "b"), {})) as trackers:
        trackers.scalars(0, {"a": 0.0})
    assert not trackers.failed
    assert len(wandb_runs(tmp_path / "b")) == 1
    (found,) = mlflow_runs(tmp_path / "b" / "mlflow", monkeypatch)
    assert found.name == "b"


def test_a_full_disk_under_wandb_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its service, which writes the file, it is only logged."""
    PartialState()
    monkeypatch.setattr("bigbatch_ue.runs.trackers._WANDB_SECONDS", 1.0)
    with open_trackers(
        [TrackerName.WANDB], TrackedRun.of_training(RunFiles(tmp_path), {})
    ) as found:
        found.scalars(0, {"a": 0.0})
        (core,) = [each for each in psutil.Process().children() if "wandb" in each.name()]
        core.rlimit(psutil.RLIMIT_FSIZE, (30_000, psutil.RLIM_INFINITY))
        for step in range(1, 1000):
            found.scalars(step, {"a": 0.0})
    core.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    assert found.failed == {TrackerName.WANDB}
    said = capsys.readouterr().err
    assert said.startswith("warning: tracking=wandb: OSError: ")
    assert "could not be written to the end; the disk may be full" in said


def test_a_run_that_ends_early_is_shown_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PartialState()
    run = TrackedRun.of_training(RunFiles(tmp_path / "a"), {})
    with pytest.raises(KeyboardInterrupt), open_trackers(BOTH, run):
        raise KeyboardInterrupt
    assert mlflow_runs(tmp_path / "a" / "mlflow", monkeypatch)[0].labels["state"] == "FAILED"
    assert wandb_runs(tmp_path / "a")[0].labels["exit"] == "1"


def test_only_the_main_process_tracks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [f"data.root={folder / 'data'}", f"output={folder / 'ranks'}"]
    run_ranks("ddp", 2, ["-m", "bigbatch_ue.train", "--preset", "digits", *TINY, ALL, *places])
    (tracked,) = mlflow_runs(folder / "ranks" / "mlflow", monkeypatch)
    (other,) = wandb_runs(folder / "ranks")
    assert tracked.order["lr"] == other.order["lr"] == list(range(6))


def test_parts_of_a_run_or_sweep_share_a_home(tmp_path: Path) -> None:
    cell = tmp_path / "sweep" / "cells" / "a-b8"
    control = cell / "controls" / "random_surrogate"
    control.mkdir(parents=True)
    (cell / "cell.yaml").touch()
    (cell / "config.yaml").touch()
    assert RunFiles(cell).home == RunFiles(control).home == tmp_path / "sweep"
    tracked = TrackedRun.of_training(RunFiles(control), {})
    assert tracked.name == "sweep/cells/a-b8/controls/random_surrogate"
    alone = tmp_path / "groups" / "mine"
    assert RunFiles(alone).home == alone
    (tmp_path / "config.yaml").touch()
    assert RunFiles(alone).home == tmp_path


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("tracking=[tensorbored]", "tracking"),
        ("tracking=wandb", "tracking"),
        ("tracking=[wandb, wandb]", "tracking: contains a value twice"),
    ],
)
def test_a_wrong_name_is_an_error(setting: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        load_config(overrides=[setting])
    print(error.value)


@pytest.mark.skipif(find_spec("trackio") is not None, reason="trackio is installed")
def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^tracking=trackio: needs trackio; run: pip install"):
        require_trackers([TrackerName.TRACKIO])
    cli = cli_of(main, capsys)
    code, _, said = cli("train", f"output={tmp_path / 'run'}", "tracking=[trackio]")
    assert code == 2
    assert "error: tracking=trackio: needs trackio; run: pip install trackio" in said
    assert not (tmp_path / "run").exists()
    made = make_run(tmp_path)
    for command in (("evaluate", made, "tracking=[trackio]"), ("evaluate", made, "seed=1")):
        code, _, said = cli(*command)
        assert code == 2
        assert ("needs trackio" in said) == ("tracking=[trackio]" in command)
    assert "set only target.*, evaluation.*, tracking and data.root" in said
    assert not (made / "evaluation").exists()
