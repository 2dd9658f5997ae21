"""Jobs that `bigbatch-ue submit` hands in: real ranks, under stubs of the schedulers."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigbatch_ue.cli.commands import main
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.ranks import finish
from tests.helpers.runs import TINY
from tests.helpers.sweeps import write as write_sweep
from tests.helpers.sweeps import write_one_long_cell

STUBS = Path(__file__).with_name("stubs")
TRAIN = ("--", "train", "--preset", "digits")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in an empty folder of a machine without a scheduler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return cli_of(main, capsys)


def submit(folder: Path, *arguments: str, **own: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `bigbatch-ue submit`, started in `folder`."""
    places = [str(STUBS), "/usr/bin", "/bin"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bigbatch_ue", "submit", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join(places), "CLUSTER": str(folder), **own},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    return finish(process)


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_slurm_job_is_requeued_until_the_training_is_finished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = submit(
        tmp_path,
        *("slurm", "--nodes", "1", "--time", "4:00", "--gpus", "0", "--ranks", "2", *TRAIN),
        *(*TINY, "budget.steps=40", f"data.root={tmp_path / 'data'}", f"output={run}"),
        WARN_AT=str(run / "metrics.jsonl"),
    )
    assert code == 0, err
    result = read_json(run / "result.json")
    assert (result["engine"], result["world_size"]) == ("ddp", 2)
    assert result["resumed_at"] > 0
    assert steps(run) == list(range(40))
    (script,) = (tmp_path / "runs" / "jobs").iterdir()
    assert str(script.relative_to(tmp_path)) in out


def test_an_lsf_job_trains_on_the_ranks_of_its_nodes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = submit(
        tmp_path,
        *("lsf", "--nodes", "1", "--time", "60", "--gpus", "0", "--ranks", "2", *TRAIN),
        *(*TINY, f"data.root={tmp_path / 'data'}", f"output={run}"),
    )
    assert code == 0, err
    result = read_json(run / "result.json")
    assert (result["engine"], result["world_size"]) == ("ddp", 2)
    (script,) = (tmp_path / "runs" / "jobs").iterdir()
    assert script.read_text().endswith(" --resume --time-limit 50\n")


def test_the_jobs_of_a_sweep_share_its_cells(tmp_path: Path) -> None:
    config = write_sweep(tmp_path, batches=[4])
    code, _, err = submit(
        tmp_path,
        *("slurm", "--nodes", "2", "--at-most", "1", "--time", "90", "--gpus", "0"),
        *("--", "sweep", "--config", str(config)),
    )
    assert code == 0, err
    cells = sweep_cells(load_sweep(config))
    assert len(cells) == 2
    assert all(cell.files.result.exists() for cell in cells)
    (script,) = (tmp_path / "runs" / "jobs").iterdir()
    assert "#SBATCH --array=1-2%1\n" in script.read_text()


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("scheduler", ["slurm", "lsf"])
def test_dry_run_prints_a_script_that_shellcheck_accepts(
    scheduler: str, command: str, cli: Cli, tmp_path: Path
) -> None:
    arguments = ["train", "seed=3"]
    if command == "sweep":
        arguments = ["sweep", "--config", str(write_one_long_cell(tmp_path))]
    options = ["--nodes", "3", "--time", "2:30", "--option", "--account x", "--setup", "true a"]
    options += ["--engine", "fsdp2", "--gpus", "4"]
    code, out, err = cli("submit", scheduler, *options, "--dry-run", "--", *arguments)
    assert (code, err) == (0, "")
    mark = {"slurm": "#SBATCH", "lsf": "#BSUB"}[scheduler]
    assert f"{mark} --account x\n" in out
    assert out.index(mark) < out.index("true a") < out.index(shlex.join(arguments))
    assert "02:30" in out
    assert ("launch fsdp2 --ranks 12 --machines 3" in out) == (command == "train")
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert checker
    checked = subprocess.run([checker, "-"], input=out, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slurm", "--time", "1:00", *TRAIN], "sbatch: not found; run this on a login node"),
        (["lsf", "--time", "1:00", *TRAIN], "bsub: not found"),
        (["lsf", "--time", "10", *TRAIN], "--time: expected more than 10 minutes"),
        (["slurm", "--time", "4 h", *TRAIN], "--time 4 h: expected hours and minutes, H:MM"),
        (["slurm", "--time", "1:75", *TRAIN], "--time 1:75: expected"),
        (["slurm", "--time", "0", *TRAIN], "--time 0: expected"),
        (["slurm", "--time", "9", "--at-most", "2", *TRAIN], "--at-most: is for commands that"),
        (["slurm", "--time", "9", "--", "apply", "x"], "submit: expected train, sweep"),
        (["slurm", "--time", "9", "--", "train", "batch.effective=0"], "batch.effective=0"),
        (
            ["slurm", "--time", "9", "--", "sweep", "--config", "none.yaml"],
            "none.yaml: no such file",
        ),
    ],
)
def test_what_cannot_be_submitted_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, cli: Cli
) -> None:
    scheduler, *rest = arguments
    code, out, err = cli("submit", scheduler, "--nodes", "2", *rest)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_job_that_the_scheduler_refuses_is_one_line(tmp_path: Path) -> None:
    arguments = ["--nodes", "1", "--time", "9", "--option=--none=1", *TRAIN]
    code, out, err = submit(tmp_path, "slurm", *arguments)
    assert (code, out) == (2, "")
    assert "sbatch refuses it (unknown option --none); change the options" in err
    assert err.count("\n") == 1
