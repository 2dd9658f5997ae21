"""Programs in processes of their own that do not import torch and DeepSpeed anew.

A server process has imported the program; each process is a fork of it. It is a real one, with
signals, files and sockets of its own: only the seconds of imports are saved. The launchers of
users, which start Python anew, are tested in test_launchers and test_survive.
"""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.launched import environment_of
from tests.helpers.ranks import ROOT, free_port

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["tests.helpers.preloaded"])


class Program:
    """A running Python program; has the methods of `subprocess.Popen` that tests need.

    Args:
        command: `-m` and a module, or a file; then its arguments.
        environment: variables beside those of this process.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._said = TemporaryDirectory()
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = SERVER.Process(
            target=_run, args=(list(command), variables, self._said.name)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        Finalize(self, self._process.kill, exitpriority=10)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired("program", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, after the end."""
        self.wait(timeout)
        folder = Path(self._said.name)
        return (folder / "1").read_text(), (folder / "2").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_ranks(
    config: str, ranks: int, command: Sequence[str], **environment: str
) -> list[Program]:
    """Start the ranks of `launchers/accelerate/<config>.yaml`, as its launcher would."""
    shared = environment_of(ROOT / "launchers" / "accelerate" / f"{config}.yaml")
    if ranks > 1:
        shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    own = [{"RANK": str(r), "LOCAL_RANK": str(r)} if ranks > 1 else {} for r in range(ranks)]
    return [Program(command, {**shared, **each, **environment}) for each in own]


def run_ranks(config: str, ranks: int, command: Sequence[str], **environment: str) -> None:
    """Run the ranks of a launcher's configuration to their good end."""
    running = start_ranks(config, ranks, command, **environment)
    said = [program.communicate(timeout=280)[1] for program in running]
    assert [program.returncode for program in running] == [0] * ranks, said[0][-3000:]


def _run(command: list[str], environment: dict[str, str], folder: str) -> None:
    """Become the program; the body of the process."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for stream in (1, 2):
        os.dup2(os.open(f"{folder}/{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    module = command[0] == "-m"
    sys.argv = command[1:] if module else command
    if module:
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")
