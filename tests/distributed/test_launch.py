"""`accelerate launch ... -m bigbatch_ue.train`, as users type it: the run of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bigbatch_ue.artefacts import read_json
from bigbatch_ue.tensors import read_tensors
from tests.distributed.test_engines import ROOT, Launch, needs_compiler
from tests.test_train import TINY

ARGUMENTS = ("-m", "bigbatch_ue.train", "--preset", "digits", *TINY, "batch.micro=5")


def run(folder: Path, name: str, *command: str) -> Path:
    output = folder / name
    done = subprocess.run(
        [sys.executable, *command, f"data.root={folder / 'data'}", f"output={output}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("launch"), "alone", *ARGUMENTS)


@pytest.mark.parametrize("launch", [Launch("ddp", 2, "ddp"), Launch("zero2", 2, "zero2")], ids=str)
def test_two_ranks_write_the_run_of_one(launch: Launch, alone: Path) -> None:
    needs_compiler(launch)
    accelerate = ("-m", "accelerate.commands.launch", "--main_process_port", "0")
    config = ("--config_file", f"launchers/accelerate/{launch.config}.yaml")
    output = run(alone.parent, launch.config, *accelerate, *config, *ARGUMENTS)
    result = read_json(output / "result.json")
    assert (result["engine"], result["world_size"]) == (launch.kind, 2)
    delta, expected = (
        read_tensors(folder / "perturbations.safetensors")[0]["perturbations"]
        for folder in (output, alone)
    )
    assert (delta - expected).norm() < 1e-3 * expected.norm()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6)), "the main process alone writes"
    assert len(list((output / "tensorboard").iterdir())) == 1
    theirs = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    losses = [torch.tensor([line["loss"] for line in each]) for each in (lines, theirs)]
    assert torch.allclose(*losses, rtol=1e-3)
