"""The scripts in `launchers/`, as users start them: real ranks, under stubs of the schedulers."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from bigbatch_ue.training.train import train
from tests.helpers.ranks import ROOT, Launch, finish, free_port, needs_compiler
from tests.helpers.runs import TINY, perturbations, tiny
from tests.helpers.sweeps import write_one_long_cell

STUBS = Path(__file__).with_name("stubs")
MULTINODE = "launchers/multinode.sh"
SLURM, SWEEP = "launchers/slurm/train.sbatch", "launchers/slurm/sweep.sbatch"
LSF = "launchers/lsf/train.lsf"
LONG = "budget.steps=40"
SGD = ("optimizer.name=sgd", "optimizer.lr=0.05")
"""Adam amplifies the rounding of another decomposition where a gradient is almost zero."""
JOB = {"SLURM_JOB_ID": "123457", "SLURM_JOB_NODELIST": "a1,a2", "SLURM_GPUS_ON_NODE": "4"}
MACHINE = {"MACHINES": "2", "MACHINE_RANK": "1", "MAIN_HOST": "a1", "RANKS_PER_MACHINE": "4"}
FOREIGN = ("SLURM_", "LSB_", "JSM_", "OMPI_", "MACHINE", "MAIN_", "RANKS_", "ENGINE", "TIME_LIMIT")


def start(*command: str, folder: Path = ROOT, **own: str) -> "subprocess.Popen[str]":
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    path = os.pathsep.join([str(STUBS), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**inherited, "PATH": path, "OMP_NUM_THREADS": "1", **own},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def training(folder: Path, *settings: str) -> list[str]:
    """A training command, whose run is `folder / "run"`."""
    places = [f"data.root={folder / 'data'}", f"output={folder / 'run'}"]
    return ["train", "--preset", "digits", *TINY, *places, *settings]


def calls(cluster: Path) -> list[list[str]]:
    """The calls of the scheduler's commands, with their arguments."""
    file = cluster / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def differ_by(folder: Path, alone: Path) -> float:
    """Relative L2 distance of a run's perturbations from those of one process."""
    delta, expected = (perturbations(load_run(each)[1]) for each in (folder, alone))
    return float((delta - expected).norm() / expected.norm())


def test_two_machines_train_the_run_of_one_process(tmp_path: Path) -> None:
    needs_compiler(Launch("zero2", 2, "zero2"))
    alone = train(tiny(tmp_path, *SGD, name="alone"))
    shared = {"MACHINES": "2", "MAIN_HOST": "127.0.0.1", "MAIN_PORT": free_port()}
    shared |= {"RANKS_PER_MACHINE": "1", "ENGINE": "zero2"}
    command = (MULTINODE, *training(tmp_path, *SGD))
    machines = [start(*command, **shared, MACHINE_RANK=str(rank)) for rank in range(2)]
    for code, _, err in [finish(machine) for machine in machines]:
        assert code == 0, err
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["engine"], result["world_size"]) == ("zero2", 2)
    assert differ_by(tmp_path / "run", alone.folder) < 1e-4


def test_slurm_requeues_a_job_until_it_has_taken_every_step(tmp_path: Path) -> None:
    """That two ranks end so with the undisturbed run's bits is shown in test_survive."""
    job = start(
        *("sbatch", "--nodes=1", SLURM, *training(tmp_path, LONG)),
        CLUSTER=str(tmp_path),
        WARN_AT=str(tmp_path / "run" / "metrics.jsonl"),
        MAIN_PORT=free_port(),
    )
    code, _, err = finish(job)
    assert code == 0, err
    assert "SIGUSR1" in err
    first, again = [arguments for name, *arguments in calls(tmp_path) if name == "srun"]
    assert first == again
    assert "--resume" in first
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["engine"], result["world_size"]) == ("ddp", 1)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(40))
    assert result["resumed_at"] > 0


def test_lsf_requeues_a_job_that_its_time_limit_ended(tmp_path: Path) -> None:
    job = start(
        *("bsub", "-nnodes", "1", LSF, *training(tmp_path)),
        CLUSTER=str(tmp_path),
        MAIN_PORT=free_port(),
        RANKS_PER_MACHINE="2",
        TIME_LIMIT="0",
    )
    code, _, err = finish(job)
    assert code == 75, err
    assert "time limit" in err
    assert "2 ranks" in err
    assert (tmp_path / "put-back").exists()
    assert "jsrun" in [name for name, *_ in calls(tmp_path)]


def test_slurm_requeues_a_sweep_whose_cells_train_under_a_launcher(tmp_path: Path) -> None:
    config = write_one_long_cell(tmp_path, launcher="ddp")
    (cell,) = sweep_cells(load_sweep(config))
    job = start(
        *("sbatch", "--array=1-1", SWEEP, "--config", str(config)),
        CLUSTER=str(tmp_path),
        WARN_AT=str(cell.files.folder / "metrics.jsonl"),
    )
    code, out, err = finish(job)
    assert code == 0, err
    assert "SIGUSR1" in err
    assert calls(tmp_path)[1:] == [["scontrol", "requeue", "123457"]]
    assert out.count("1 cell: 1 finished") == 1
    result = read_json(cell.files.folder / "result.json")
    assert 0 < result["resumed_at"] < 100
    assert (result["engine"], result["world_size"]) == ("ddp", 2)
    assert not cell.files.protected.exists()
    assert "error: stopped by SIGUSR1; run the same command again to continue" in err


NODE = "launchers/multinode.sh train a=1 --resume"


@pytest.mark.parametrize(
    ("script", "arguments", "own", "expected"),
    [
        (
            MULTINODE,
            "train 'a=[1, 2]'",
            {**MACHINE, "ENGINE": "zero3_offload"},
            "python -m bigbatch_ue.launch --config_file launchers/accelerate/zero3_offload.yaml "
            "--num_processes 8 --num_machines 2 --machine_rank 1 --main_process_ip a1 "
            "--main_process_port 29500 -m bigbatch_ue train 'a=[1, 2]'",
        ),
        (
            SLURM,
            "train a=1",
            {**JOB, "ENGINE": "fsdp2", "SLURM_CPUS_PER_TASK": "32"},
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=32 "
            "--kill-on-bad-exit=0 --wait=600 env MACHINES=2 MAIN_HOST=a1 MAIN_PORT=23457 "
            f"RANKS_PER_MACHINE=4 ENGINE=fsdp2 {NODE}",
        ),
        (
            SLURM,
            "train a=1",
            {},
            "srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 "
            f"--kill-on-bad-exit=0 --wait=600 env MACHINES=1 MAIN_HOST={socket.gethostname()} "
            f"MAIN_PORT=20000 RANKS_PER_MACHINE=1 ENGINE=ddp {NODE}",
        ),
        (
            SWEEP,
            "--config sweep.yaml",
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"},
            "python -m bigbatch_ue sweep --config sweep.yaml --shard 3/8",
        ),
        (
            SWEEP,
            "--config sweep.yaml",
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "1"},
            "python -m bigbatch_ue sweep --config sweep.yaml --shard 5/8",
        ),
        (
            LSF,
            "train a=1",
            {"LSB_JOBID": "77", "LSB_DJOB_HOSTFILE": "hosts", "ENGINE": "zero2"},
            "jsrun -n 2 -r 1 -a 1 -g 6 -c 42 -b rs env MACHINES=2 MAIN_HOST=a1 MAIN_PORT=20077 "
            f"RANKS_PER_MACHINE=6 ENGINE=zero2 {NODE} --time-limit 110",
        ),
    ],
    ids=["multinode", "slurm", "slurm-outside-a-job", "slurm-sweep", "slurm-one-task-again", "lsf"],
)
def test_dry_run_prints_the_command_and_starts_nothing(
    script: str, arguments: str, own: dict[str, str], expected: str, tmp_path: Path
) -> None:
    if "LSB_DJOB_HOSTFILE" in own:
        hosts = tmp_path / own["LSB_DJOB_HOSTFILE"]
        hosts.write_text("batch1\n" + "a1\n" * 42 + "a2\n" * 42)
        own = {**own, "LSB_DJOB_HOSTFILE": str(hosts)}
    dry = start(script, "--dry-run", *shlex.split(arguments), CLUSTER=str(tmp_path), **own)
    code, out, err = finish(dry)
    assert (code, err) == (0, "")
    assert shlex.split(out) == shlex.split(expected)
    asked = [["scontrol", "show", "hostnames", "a1,a2"]]
    assert calls(tmp_path) in ([], asked)


@pytest.mark.parametrize(
    ("script", "arguments", "own", "message"),
    [
        (MULTINODE, "train", {}, "MACHINES is not set; set it to the number of machines"),
        (MULTINODE, "train", {**MACHINE, "MACHINES": "two"}, "MACHINES=two: expected the number"),
        (MULTINODE, "train", {**MACHINE, "MACHINE_RANK": "2"}, "MACHINE_RANK=2: expected the"),
        (MULTINODE, "train", {**MACHINE, "RANKS_PER_MACHINE": "0"}, "RANKS_PER_MACHINE=0: "),
        (MULTINODE, "train", {**MACHINE, "MAIN_HOST": ""}, "MAIN_HOST is not set; set it"),
        (MULTINODE, "train", {**MACHINE, "MAIN_PORT": "70000"}, "MAIN_PORT=70000: expected a"),
        (MULTINODE, "train", {**MACHINE, "ENGINE": "zero9"}, "ENGINE=zero9: launchers/"),
        (MULTINODE, "train", {**MACHINE, "ENGINE": "single"}, "ENGINE=single: starts one rank"),
        (MULTINODE, "", MACHINE, "expected a command"),
        (SLURM, "train", {}, "not a Slurm job; submit"),
        (SLURM, "--preset pets", JOB, "expected the training command"),
        (SWEEP, "--config sweep.yaml", {}, "not a task of a Slurm job array; submit"),
        (LSF, "train", {}, "not an LSF job; submit"),
        (LSF, "train", {"LSB_DJOB_HOSTFILE": "/dev/null"}, "/dev/null: contains no compute host"),
        (LSF, "", {}, "expected the training command"),
    ],
)
def test_a_bad_environment_is_one_line_and_exit_code_2(
    script: str, arguments: str, own: dict[str, str], message: str, tmp_path: Path
) -> None:
    code, out, err = finish(start(script, *shlex.split(arguments), CLUSTER=str(tmp_path), **own))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert calls(tmp_path) == []


@pytest.mark.parametrize("script", [MULTINODE, SLURM, SWEEP, LSF])
def test_scripts_say_where_to_start_them(script: str, tmp_path: Path) -> None:
    code, out, err = finish(start(str(ROOT / script), "train", folder=tmp_path))
    assert (code, out) == (2, "")
    assert "in the top folder of the repository" in err
    assert err.count("\n") == 1
