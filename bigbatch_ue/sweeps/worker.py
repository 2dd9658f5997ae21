"""A process that runs cells of a sweep; if it is killed, one cell fails, not the sweep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from bigbatch_ue.launching.engines import (
    LaunchedEngine,
    Machines,
    gpus,
    is_engine,
    launch_arguments,
)
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError, user_message
from bigbatch_ue.runtime.signals import (
    EXIT_INTERRUPTED,
    HOW_TO_CONTINUE,
    Interrupted,
    describe_exit,
    handling_signals,
    raising_on_signals,
)
from bigbatch_ue.sweeps.cells import Outcome

_POLL = 0.5
_GRACE = 100.0
"""Seconds that training has for its checkpoint when the sweep is stopped by a signal."""
_STOPPED = f"stopped by a signal; {HOW_TO_CONTINUE}"


class Worker:
    """A process that runs one cell after another, and is replaced when it dies.

    It ends with `close`, and with the process that started it, however that ends.
    """

    def __init__(self) -> None:
        self._spawn = get_context("spawn")
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None

    def run(
        self,
        folder: Path,
        *,
        launcher: LaunchedEngine | Path | None = None,
        protect: bool = True,
        lost: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """Train, protect and evaluate a cell.

        Args:
            folder: of the cell, with its `cell.yaml`; all output goes to `log.txt` there.
            launcher: engine, or Accelerate YAML file, under which the cell trains; None trains in
                the worker.
            protect: write the protected images.
            lost: whether this job has lost the cell; the work on it then ends.

        Returns:
            The outcome; None if the cell was lost.

        Raises:
            Interrupted: a signal stopped this process or the worker; training has written a
                checkpoint.
        """
        began = time.perf_counter()
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        order = {"folder": str(folder), "launcher": launcher and str(launcher), "protect": protect}
        self._connection.send_bytes(json.dumps(order).encode())
        try:
            while not self._connection.poll(_POLL):
                if lost():
                    self.close()
                    return None
        except Interrupted:
            self._process.terminate()
            self._process.join(_GRACE)
            raise
        try:
            reason, healthy = json.loads(self._connection.recv_bytes())
        except EOFError:
            self._process.join()
            if self._process.exitcode == EXIT_INTERRUPTED:
                raise Interrupted(_STOPPED) from None
            reason, healthy = _death(self._process.exitcode, folder), False
        if not healthy:
            self.close()
        seconds = round(time.perf_counter() - began, 3)
        return Outcome("failed" if reason else "finished", reason, seconds)

    def _start(self) -> None:
        self._connection, other_end = self._spawn.Pipe()
        self._process = self._spawn.Process(target=_serve, args=(other_end,), daemon=True)
        self._process.start()
        other_end.close()

    def close(self) -> None:
        """Kill the process, and all that it started."""
        if self._process is not None:
            _kill_with_children(self._process.pid)
            self._process.join()
            self._process = None


def _death(code: int, folder: Path) -> str:
    """Say why the process died, and where it may have said more."""
    hint = "" if code < 0 else f"; see {folder.name}/{RunFiles(folder).log.name}"
    return f"its process {describe_exit(code)}{hint}"


def _serve(connection: "Connection[Any, Any]") -> None:
    """Run the cells that `connection` orders, until it is closed; the body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with raising_on_signals():
            while True:
                order = json.loads(connection.recv_bytes())
                reply = _attempt(Path(order["folder"]), order["launcher"], order["protect"])
                connection.send_bytes(json.dumps(reply).encode())
    except EOFError:
        return
    except Interrupted as stop:
        print(f"error: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _end_with_parent() -> None:
    """Kill this process when the one that started it ends."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    _kill_with_children(os.getpid())


def _kill_with_children(pid: int) -> None:
    """Kill a process and all that it started: a launcher's ranks must not outlive it."""
    try:
        process = psutil.Process(pid)
        processes = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _attempt(folder: Path, launcher: str | None, protect: bool) -> tuple[str, bool]:
    """Run a cell; return why it failed, else "", and whether this process can run another one."""
    with RunFiles(folder).log.open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            _run_cell(folder, launcher, protect)
        except Exception as error:
            message = user_message(error)
            if message is not None:
                print(f"error: {message}", file=sys.stderr)
                return message, True
            traceback.print_exc()
            return " ".join(f"{type(error).__name__}: {error}".split()), False
        return "", True


def _run_cell(folder: Path, launcher: str | None, protect: bool) -> None:
    from bigbatch_ue.config.load import load_config
    from bigbatch_ue.evaluation.evaluate import evaluate
    from bigbatch_ue.protection.protect import protect as write_protected
    from bigbatch_ue.training.train import train

    settings = RunFiles(folder).cell
    if launcher is not None:
        _train_under(launcher, settings)
    run = train(load_config(file=settings), resume=True)
    if protect:
        write_protected(run.folder, form="npz", at="training")
    evaluate(run.folder, page=False)


def arguments_under(launcher: str, settings: Path) -> list[str]:
    """Return the arguments of the launcher that train by `settings` on the ranks of `launcher`."""
    module = ["bigbatch_ue.train", "--config", str(settings), "--resume"]
    if is_engine(launcher):
        return launch_arguments(launcher, gpus() or 2, Machines(), module)
    # any free port, since jobs of a sweep may share a machine
    return ["--config_file", launcher, "--main_process_port", "0", "-m", *module]


def _train_under(launcher: str, settings: Path) -> None:
    """Train under a launcher, which starts processes of its own."""
    arguments = arguments_under(launcher, settings)
    command = [sys.executable, "-m", "bigbatch_ue.launch", *arguments]
    with subprocess.Popen(command) as ranks, handling_signals(ranks.send_signal):
        code = ranks.wait()
    if code == EXIT_INTERRUPTED:
        raise Interrupted(_STOPPED)
    if code:
        raise UserError(f"training under {launcher} {describe_exit(code)}; see the lines above")
