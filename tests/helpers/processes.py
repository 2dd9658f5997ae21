"""Watching and stopping processes that train."""

import subprocess
import time
from pathlib import Path

import torch

from bigbatch_ue.files.tensor_files import read_tensors
from tests.helpers.forked import Program


def logged(run: Path) -> int:
    """Steps that a run has logged."""
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for_steps(run: Path, count: int, process: "subprocess.Popen[str] | Program") -> None:
    while logged(run) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def perturbations_in(run: Path) -> torch.Tensor:
    return read_tensors(run / "perturbations.safetensors")[0]["perturbations"]
