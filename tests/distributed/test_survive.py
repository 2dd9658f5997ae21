"""Two ranks that are stopped, killed or poisoned, and continue, also under another engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from bigbatch_ue.config.load import load_config
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runtime.errors import EXIT_LOST_RANK
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED
from bigbatch_ue.training.train import train
from tests.helpers.forked import run_ranks, start_ranks
from tests.helpers.processes import logged, perturbations_in, wait_for_steps
from tests.helpers.ranks import ROOT, Launch, needs_compiler
from tests.helpers.runs import STABLE, TINY

SETTINGS = (*TINY, *STABLE, "batch.micro=5", "budget.steps=24", "checkpoint.every=4")


def training(folder: Path, name: str, *arguments: str) -> list[str]:
    """A training command, whose run is `folder / name`."""
    places = [f"data.root={folder / 'data'}", f"output={folder / name}"]
    return ["train", "--preset", "digits", *SETTINGS, *places, *arguments]


def launch(folder: Path, name: str, *arguments: str) -> "subprocess.Popen[str]":
    """Train `name` on two ranks under the launcher."""
    launcher = ["-m", "bigbatch_ue.launch", "--config_file", "launchers/accelerate/ddp.yaml"]
    launcher += ["--main_process_port", "0", "-m", "bigbatch_ue"]
    return subprocess.Popen(
        [sys.executable, *launcher, *training(folder, name, *arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def script(folder: Path, name: str, change: str, *arguments: str) -> list[str]:
    """A program that trains `name` after a `change` of the code."""
    path = folder / f"{name}.py"
    path.write_text(
        f"{change}\nimport sys\nfrom bigbatch_ue.cli.commands import main\nmain(sys.argv[1:])"
    )
    return [str(path), *training(folder, name, *arguments)]


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def distance(ours: Path, theirs: Path) -> float:
    delta, expected = perturbations_in(ours), perturbations_in(theirs)
    return float((delta - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survive")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """The run of two ranks under DDP."""
    run_ranks("ddp", 2, ["-m", "bigbatch_ue", *training(folder, "undisturbed")])
    return folder / "undisturbed"


@pytest.fixture(scope="module")
def stopped(folder: Path, undisturbed: Path) -> Path:
    """The same run, stopped by a signal."""
    process = launch(folder, "stopped")
    wait_for_steps(folder / "stopped", 3, process)
    process.send_signal(signal.SIGUSR1)
    said = finish(process, EXIT_INTERRUPTED)
    assert "stopped after step" in said
    assert "with --resume" in said
    return folder / "stopped"


def copy_of(run: Path, name: str) -> Path:
    copy = run.with_name(name)
    subprocess.run(["cp", "-r", str(run), str(copy)], check=True)
    return copy


def test_ranks_that_stop_together_and_then_lose_one_continue_to_the_same_bits(
    folder: Path, stopped: Path, undisturbed: Path
) -> None:
    copy = copy_of(stopped, "same")
    done = logged(copy)
    assert (copy / "checkpoints" / f"step-{done:08d}.safetensors").exists()
    process = launch(folder, "same", "--resume")
    wait_for_steps(copy, done + 5, process)
    ranks = psutil.Process(process.pid).children()
    (second,) = [rank for rank in ranks if rank.environ()["RANK"] == "1"]
    began = time.monotonic()
    second.kill()
    said = finish(process, 128 + signal.SIGKILL)
    assert time.monotonic() - began < 60
    assert "error: rank 1 was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert not [rank for rank in ranks if rank.is_running()]
    before = logged(copy)

    run_ranks("ddp", 2, ["-m", "bigbatch_ue", *training(folder, "same", "--resume")])
    assert max(done, before - 4) <= read_json(copy / "result.json")["resumed_at"] <= before
    assert torch.equal(perturbations_in(copy), perturbations_in(undisturbed))


def test_another_engine_and_micro_batch_continue_to_the_same_result(
    folder: Path, stopped: Path, undisturbed: Path
) -> None:
    """ZeRO-2, and one process; test_engines resumes each engine from the state of another."""
    needs_compiler(Launch("zero2", 2, "zero2"))
    sharded, alone = copy_of(stopped, "zero2"), copy_of(stopped, "single")
    resumed = training(folder, "zero2", "--resume", "batch.micro=5")
    run_ranks("zero2", 2, ["-m", "bigbatch_ue", *resumed])
    settings = [*SETTINGS, f"data.root={folder / 'data'}", f"output={alone}", "batch.micro=7"]
    train(load_config("digits", overrides=settings), resume=True)
    for copy, engine, ranks in ((sharded, "zero2", 2), (alone, "single", 1)):
        result = read_json(copy / "result.json")
        assert (result["engine"], result["world_size"]) == (engine, ranks)
        assert result["resumed_at"] == logged(stopped)
        assert distance(copy, undisturbed) < 1e-3


def test_a_rank_without_its_peer_says_so(folder: Path) -> None:
    """No launcher sees the rank that died, as on another machine."""
    lost = """
import os, signal
import torch, torch.distributed
import bigbatch_ue.training.train
def lose(*_, **__):
    torch.distributed.init_process_group("gloo")
    if torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.all_reduce(torch.ones(1))
bigbatch_ue.training.train.train = lose
"""
    ranks = start_ranks("ddp", 2, script(folder, "lost", lost))
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [EXIT_LOST_RANK, -signal.SIGKILL], said
    assert said[0].splitlines()[-1].startswith("error: lost another rank; add --resume")


def test_ranks_that_see_other_checkpoints_stop(folder: Path, stopped: Path) -> None:
    copy_of(stopped, "unshared")
    blind = """
import os
from bigbatch_ue.runs.checkpoints import NEW
from bigbatch_ue.training import train
if os.environ["RANK"] == "1":
    train.load_checkpoint = lambda run: NEW
"""
    ranks = start_ranks("ddp", 2, script(folder, "unshared", blind, "--resume"))
    for rank in ranks:
        said = rank.communicate(timeout=100)[1]
        assert rank.returncode == 2, said
        assert "differs between ranks; put the run into a folder that all ranks share" in said


def test_all_ranks_skip_a_step_in_which_one_has_a_non_finite_loss(folder: Path) -> None:
    needs_compiler(Launch("zero2", 2, "zero2"))
    poison = """
import os
import torch
from bigbatch_ue.training.objective import ClusterwiseLoss
calls, forward = 0, ClusterwiseLoss.__call__
def poisoned(self, delta, micro):
    global calls
    calls += 1
    losses = forward(self, delta, micro)
    return losses * torch.nan if os.environ["RANK"] == "1" and calls == 4 else losses
ClusterwiseLoss.__call__ = poisoned
"""
    changed = ("budget.steps=6", "optimizer.nonfinite=skip")
    run_ranks("zero2", 2, script(folder, "poisoned", poison, *changed))
    assert read_json(folder / "poisoned" / "result.json")["skipped_steps"] == 1
    metrics = (folder / "poisoned" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    assert sum("skipped" in line for line in lines) == 1
