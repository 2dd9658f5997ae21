"""Locks: who holds them, and what to do where there are none."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import Timeout

from bigbatch_ue.files import locks
from bigbatch_ue.files.locks import locked
from bigbatch_ue.runtime.errors import UserError

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock until its standard input ends."""
    told = json.dumps({"host": "node7", "process": 4242})
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock"), told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        told = json.loads((tmp_path / "lock").read_text())
    assert told == {"host": socket.gethostname(), "process": os.getpid()}


def test_who_waits_says_for_whom_and_goes_on_when_the_holder_ends(
    tmp_path: Path, holder: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    threading.Timer(0.5, holder.kill).start()
    with locked(tmp_path / "lock"):
        assert holder.wait(10) == -9
    assert capsys.readouterr().err == f"{tmp_path}/lock: waiting for process 4242 on node7\n"


@pytest.mark.usefixtures("holder")
def test_waiting_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.2)
    with (
        pytest.raises(UserError, match=r"process 4242 on node7 has held it for .*; end that"),
        locked(tmp_path / "lock"),
    ):
        pass
    with pytest.raises(Timeout), locked(tmp_path / "lock", blocking=False):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(UserError, match=rf"^{tmp_path}/lock: its file system cannot lock files"),
        locked(tmp_path / "lock"),
    ):
        pass
