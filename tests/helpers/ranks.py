"""Launches of real ranks, and what must come of them."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CUT = (
    "96x48-delta-sgd-1",
    "96x48-engine-sgd-1",
    "97x33-delta-sgd-1",
    "97x33-engine-sgd-1",
    "96x48-delta-adam-2",
    "96x48-engine-adam-2",
    "40+97x33-delta-sgd-2",
    "40+97x33-engine-sgd-2",
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


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, standard output, standard error of a process with a session of its own."""
    try:
        out, err = process.communicate(timeout=280)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def set_launcher_variables(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Make this process believe that a launcher started it as the first of some ranks."""
    sizes = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "RANK": 0, "LOCAL_RANK": 0}
    for name, value in (sizes | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}).items():
        monkeypatch.setenv(name, str(value))


def needs_compiler(launch: Launch) -> None:
    if launch.kind.startswith("zero") and not (shutil.which("g++") and shutil.which("ninja")):
        pytest.skip("DeepSpeed compiles at its first start: g++ and ninja are needed")
