"""Atomic writes: files and folders are made in a temporary place, synced, then renamed."""

import fcntl
import glob
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_IN_USE_SECONDS = 10.0
"""Seconds after its last change for which a temporary folder is assumed to be in use."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file, which on success is synced and becomes `path`.

    On any error the temporary file is removed, and `path` is as before.
    """
    with _replacement(path) as temporary:
        yield temporary


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which on success is synced and becomes `path`.

    On any error the temporary folder is removed, and `path` is as before.
    """
    with _replacement(path) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside `path`, which on success becomes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with (
        TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
        ) as shelter,
        _descriptor(Path(shelter)) as descriptor,
    ):
        _lock(descriptor)
        temporary = Path(shelter, path.name)
        yield temporary
        mode = _usual_mode(Path(shelter))
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                file.chmod(mode)  # some libraries make files for the owner alone
                _sync(file)
        if path.is_dir():
            path.rename(Path(shelter, "replaced"))
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _usual_mode(folder: Path) -> int:
    """Return the mode of a new file, as the umask or the folder's own rules give it."""
    probe = folder / "mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _sync(path: Path) -> None:
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a folder until `descriptor` is closed; return whether it was free.

    On file systems that cannot lock folders, none is free.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of `path` that killed processes have left."""
    for entry in path.parent.glob(f".{glob.escape(path.name)}.*/"):
        with suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime < _IN_USE_SECONDS:  # perhaps not locked yet
                continue
            with _descriptor(entry) as descriptor:
                if _lock(descriptor):
                    shutil.rmtree(entry, ignore_errors=True)
