"""Work that several processes share, each a part of the indices."""

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.host import usable_cores
from bigbatch_ue.runtime.signals import SIGNALS

Result = TypeVar("Result")

_CHUNK = 64
_MOST = 16
"""Processes, at most: beyond, the disk is the limit."""


def in_processes(work: Callable[[range], Result], count: int) -> Iterator[tuple[range, Result]]:
    """Yield consecutive chunks of `range(count)`, each with what `work` returns for its indices.

    Several processes share the chunks if there are several processors. They are copies of this
    one, so `work` may be any function, but must not use a GPU or threads; what it returns should
    be small. A chunk that fails there is done again here, so that an error is the one that a single
    process would raise.
    """
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    processes = process_count(count)
    if processes == 1:
        yield from ((chunk, work(chunk)) for chunk in chunks)
        return
    with _started(work, chunks, processes) as connections:
        for number, chunk in enumerate(chunks):
            done, result = _receive(connections, number % processes)
            yield chunk, result if done else work(chunk)


def process_count(count: int) -> int:
    """Return how many processes share `count` pieces of work."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return max(1, min(usable_cores(), _MOST, count // _CHUNK))


@contextmanager
def _started(
    work: Callable[[range], Result], chunks: list[range], count: int
) -> Iterator[list[Connection | None]]:
    """Start `count` processes, and yield the connection to each; end them afterwards."""
    context = multiprocessing.get_context("fork")
    processes: list[ForkProcess] = []
    connections: list[Connection] = []
    try:
        with _signals_held(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads; `work` uses none
            for index in range(count):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_serve, args=(work, chunks[index::count], ours, theirs), daemon=True
                )
                process.start()
                theirs.close()  # so that its end is the end of the connection
                processes.append(process)
                connections.append(ours)
        yield list(connections)
    finally:
        for process in processes:
            process.kill()
        for process, connection in zip(processes, connections, strict=True):
            process.join()
            connection.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait for the end of this context: Python ignores what they raise in a fork."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    heard = [each for each in (signal.SIGINT, *SIGNALS) if callable(signal.getsignal(each))]
    former = {each: signal.signal(each, lambda number, _: waiting.append(number)) for each in heard}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
        for number in waiting:
            signal.raise_signal(number)


def _receive(connections: list[Connection | None], index: int) -> tuple[bool, Any]:
    """Receive whether a chunk is done, and its result, from a process that may have been ended."""
    connection = connections[index]
    if connection is None:
        return False, None
    try:
        done, result = connection.recv()
    except (EOFError, OSError):
        note("a process beside this one was ended (out of memory?); this one does its part")
        connections[index] = None
        return False, None
    return bool(done), result


def _serve(
    work: Callable[[range], Result], chunks: list[range], theirs: Connection, results: Connection
) -> None:
    """Do the chunks of one process, and send what comes of each, until the other side ends."""
    theirs.close()  # so that its end is noticed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for chunk in chunks:
        answer: tuple[bool, Result | None]
        try:
            answer = (True, work(chunk))
        except Exception:  # whatever it is, the other side meets it when it does the chunk again
            answer = (False, None)
        try:
            results.send(answer)
        except OSError:
            return
