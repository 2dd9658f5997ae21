"""Starting real ranks."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CUT = (
    "96x72-delta-sgd-1",
    "96x72-engine-sgd-1",
    "97x50-delta-sgd-1",
    "97x50-engine-sgd-1",
    "96x72-delta-adam-5",
    "96x72-engine-adam-5",
)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Launch:
    """A launcher's configuration, how many ranks, and what must come of it."""

    config: str
    ranks: int
    kind: str
    bank: str = ""
    cases: tuple[str, ...] = CUT

    def __str__(self) -> str:
        return f"{self.config}-{self.ranks}"


def start(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def needs_compiler(launch: Launch) -> None:
    if launch.kind.startswith("zero") and not (shutil.which("g++") and shutil.which("ninja")):
        pytest.skip("DeepSpeed compiles at its first start: g++ and ninja are needed")
