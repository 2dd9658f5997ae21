"""Engines by name: the packaged files, and ranks that are started with them."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from bigbatch_ue.cli.commands import main
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.launching.engines import (
    ENGINES,
    LaunchedEngine,
    Machines,
    accelerate_file,
    deepspeed_file,
    launch_arguments,
)
from bigbatch_ue.launching.ranks import describe
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.worker import arguments_under
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.ranks import ROOT, Launch, free_port, needs_compiler
from tests.helpers.runs import TINY


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def training(folder: Path) -> list[str]:
    places = [f"data.root={folder / 'data'}", f"output={folder / 'run'}"]
    return ["train", "--preset", "digits", *TINY, *places]


def launch(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bigbatch_ue", "launch", *arguments]
    return subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE)


def test_every_file_of_the_launchers_is_an_engine() -> None:
    files = (ROOT / "launchers" / "accelerate").glob("*.yaml")
    assert sorted(file.stem for file in files) == sorted(ENGINES)


@pytest.mark.parametrize("engine", get_args(LaunchedEngine))
def test_an_engine_has_the_deepspeed_file_that_its_accelerate_file_names(
    engine: LaunchedEngine,
) -> None:
    content = yaml.safe_load(accelerate_file(engine).read_text())
    named = content.get("deepspeed_config", {}).get("deepspeed_config_file")
    own = deepspeed_file(engine)
    assert (named and Path(named).name) == (own and own.name)


def test_launch_starts_the_ranks_of_an_engine_from_any_folder(tmp_path: Path) -> None:
    needs_compiler(Launch("zero1", 2, "zero1"))
    ranks = launch("zero1", "--ranks", "2", "--", *training(tmp_path), folder=tmp_path)
    _, err = ranks.communicate(timeout=280)
    assert ranks.returncode == 0, err
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["engine"], result["world_size"]) == ("zero1", 2)


def test_launch_on_two_machines_starts_one_run(tmp_path: Path) -> None:
    shared = ["ddp", "--ranks", "2", "--machines", "2", "--main-host", "127.0.0.1"]
    shared += ["--main-port", free_port()]
    machines = [
        launch(*shared, "--machine-rank", str(own), "--", *training(tmp_path), folder=tmp_path)
        for own in range(2)
    ]
    for machine in machines:
        _, err = machine.communicate(timeout=280)
        assert machine.returncode == 0, err
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["engine"], result["world_size"]) == ("ddp", 2)


@pytest.mark.parametrize("variable", ["SLURM_NODEID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK"])
def test_the_scheduler_says_which_machine_this_is(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "3")
    machines = Machines(4, main_host="a1")
    arguments = launch_arguments("ddp", 8, machines, ["bigbatch_ue"])
    assert arguments[arguments.index("--machine_rank") + 1] == "3"


@pytest.mark.parametrize("between", [["--"], []])
def test_dry_run_prints_what_each_rank_runs(between: list[str], cli: Cli) -> None:
    command = ["train", "--preset", "digits", "seed=3"]
    code, out, _ = cli("launch", "zero2", "--ranks", "4", "--dry-run", *between, *command)
    assert code == 0
    assert "4 ranks on 1 machine" in out
    assert out.endswith("-m bigbatch_ue train --preset digits seed=3\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["single", "--ranks", "2", "--", "train"], "launch single: starts one rank, not 2"),
        (["ddp", "--", "train"], "--ranks: missing; this machine has no GPU"),
        (["ddp", "--ranks", "3", "--machines", "2", "--", "train"], "--ranks 3: expected the"),
        (["ddp", "--ranks", "2", "--machines", "2", "--", "train"], "--main-host: missing"),
        (["ddp", "--ranks", "2", "--", "protect", "runs/x"], "launch: expected train, evaluate"),
        (["ddp", "--ranks", "2", "--", "train", "seed=-1"], "seed=-1: "),
        (["ddp", "--ranks", "2", "--", "train", "--sed", "1"], "No such option: --sed"),
        (["ddp", "--ranks", "2", "--", "train", "data.name=folder:none"], "data.name=folder:none"),
        (["zero9", "--ranks", "2", "--", "train"], "Invalid value for 'engine'"),
        (["ddp", "--rank", "2", "--", "train"], "launch: expected train, evaluate, bench after --"),
    ],
)
def test_what_cannot_be_launched_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, cli: Cli
) -> None:
    code, out, err = cli("launch", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("machines", "message"),
    [
        (Machines(2, main_host="a1"), "--machine-rank: missing"),
        (Machines(2, own=2, main_host="a1"), "--machine-rank 2: expected"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(machines: Machines, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch_arguments("ddp", 2, machines, ["bigbatch_ue"])


@pytest.mark.parametrize("launcher", ["ddp", str(accelerate_file("ddp"))])
def test_a_cell_of_a_sweep_trains_under_an_engine_or_a_file(launcher: str) -> None:
    """Two real ranks train one in test_launchers."""
    ranks = describe(arguments_under(launcher, Path("cell.yaml")))
    assert ranks.endswith("-m bigbatch_ue.train --config cell.yaml --resume")
    assert "2 ranks on 1 machine" in ranks
