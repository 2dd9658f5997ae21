"""A process that does cells of a sweep: what kills it fails one cell, not the sweep."""

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
from types import TracebackType
from typing import Any, Self

import psutil

from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError, user_message
from bigbatch_ue.runtime.signals import (
    EXIT_INTERRUPTED,
    Interrupted,
    handling_signals,
    raising_on_signals,
)
from bigbatch_ue.sweeps.cells import Outcome

_POLL = 0.5
_GRACE = 100.0
"""Seconds that training has for its checkpoint when the sweep is told to stop."""
_GO_ON = "stopped by a signal; the same command goes on from here"


class Worker:
    """Does one cell after another in a process of its own, which is replaced when it dies.

    A context manager; the process ends with it, and with the process that made it, however that
    ends.
    """

    def __init__(self) -> None:
        self._spawn = get_context("spawn")
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None

    def do(
        self,
        folder: Path,
        *,
        launcher: Path | None = None,
        protect: bool = True,
        lost: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """Train, protect and evaluate the cell of `folder`, whose `cell.yaml` says how.

        Args:
            folder: of the cell; what it has to say goes to `log.txt` there.
            launcher: an Accelerate YAML under which it is trained; in the worker itself if None.
            protect: write the protected images.
            lost: whether the cell is no longer ours; then the work on it ends.

        Returns:
            What it came to; None if it was lost.

        Raises:
            Interrupted: this process or that of the worker was told to stop; training has made a
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
                    self._stop()
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
                raise Interrupted(_GO_ON) from None
            reason, healthy = _death(self._process.exitcode, folder), False
        if not healthy:
            self._stop()
        seconds = round(time.perf_counter() - began, 3)
        return Outcome("failed" if reason else "finished", reason, seconds)

    def _start(self) -> None:
        self._connection, theirs = self._spawn.Pipe()
        self._process = self._spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._process is not None:
            _kill_with_children(self._process.pid)
            self._process.join()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()


def _death(code: int | None, folder: Path) -> str:
    """Why a process ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {code}; see {folder.name}/{RunFiles(folder).log.name}"


def _serve(connection: "Connection[Any, Any]") -> None:
    """Do what comes through `connection` until it is closed; the body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
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


def _follow() -> None:
    """End with the process that started this one."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    _kill_with_children(os.getpid())


def _kill_with_children(pid: int) -> None:
    """End a process and all that it started: a launcher's ranks must not outlive it."""
    try:
        process = psutil.Process(pid)
        doomed = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for each in doomed:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _attempt(folder: Path, launcher: str | None, protect: bool) -> tuple[str, bool]:
    """Do a cell: why it failed, if it did, and whether this process is fit for another one."""
    with RunFiles(folder).log.open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            _do_cell(folder, launcher, protect)
        except Exception as error:
            message = user_message(error)
            if message is not None:
                print(f"error: {message}", file=sys.stderr)
                return message, True
            traceback.print_exc()
            return " ".join(f"{type(error).__name__}: {error}".split()), False
        return "", True


def _do_cell(folder: Path, launcher: str | None, protect: bool) -> None:
    from bigbatch_ue.config.load import load_config
    from bigbatch_ue.evaluation.evaluate import evaluate
    from bigbatch_ue.protection.protect import protect as write_protected
    from bigbatch_ue.training.train import train

    settings = RunFiles(folder).cell
    if launcher is not None:
        _launch(launcher, settings)
    run = train(load_config(file=settings), resume=True)
    if protect:
        write_protected(run.folder, form="npz", at="training")
    evaluate(run.folder)


def _launch(launcher: str, settings: Path) -> None:
    """Train under a launcher, in processes of its own."""
    command = [sys.executable, "-m", "bigbatch_ue.launch", "--config_file", launcher]
    command += ["--main_process_port", "0"]  # jobs of a sweep may share a machine
    training = ["-m", "bigbatch_ue.train", "--config", str(settings), "--resume"]
    with subprocess.Popen([*command, *training]) as ranks, handling_signals(ranks.send_signal):
        code = ranks.wait()
    if code == EXIT_INTERRUPTED:
        raise Interrupted(_GO_ON)
    if code:
        raise UserError(f"training under {launcher} ended with exit code {code}")
