"""Locks on files, for work that one of several processes does for all of them."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError

PATIENCE_SECONDS = 4 * 3600.0
"""How long a process waits for another one: longer than a surrogate or an arm takes to train."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(path: Path, *, blocking: bool = True) -> Iterator[None]:
    """Hold the lock `path`; if another process holds it, say which one, and wait.

    The system gives the lock back when its holder ends, however that happens.

    Args:
        path: a file beside what is locked; it names the holder.
        blocking: whether to wait; else `Timeout` is raised at once.

    Raises:
        Timeout: another process holds the lock, and `blocking` is not set.
        UserError: the file system cannot lock, or the holder takes longer than `PATIENCE_SECONDS`.
    """
    lock = FileLock(path)
    try:
        _acquire(lock, path, 0)
    except Timeout:
        if not blocking:
            raise
        note(f"{path}: waiting for {_holder(path)}")
        try:
            _acquire(lock, path, PATIENCE_SECONDS)
        except Timeout:
            hours = PATIENCE_SECONDS / 3600
            raise UserError(
                f"{path}: {_holder(path)} has held it for {hours:g} hours; end that process, or "
                "delete that file if its machine is gone"
            ) from None
    try:
        path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, timeout: float) -> None:
    try:
        lock.acquire(timeout=timeout)
    except NotImplementedError:
        raise UserError(_cannot_lock(path, "locks are not implemented")) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise UserError(_cannot_lock(path, error.strerror)) from None
        raise


def _cannot_lock(path: Path, reason: str | None) -> str:
    return (
        f"{path}: its file system cannot lock files ({reason}); choose another one with data.root "
        "and output, or mount it with locks"
    )


def _holder(path: Path) -> str:
    """Return the process that holds a lock, in words."""
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
