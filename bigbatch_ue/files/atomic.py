"""Artefacts on disk: made in a temporary place, synced, then renamed; no pickle anywhere."""

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_IN_USE_SECONDS = 10.0
"""Seconds for which a temporary folder is taken to be in use."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is synced and becomes `path`.

    On any error the temporary file is removed and whatever was at `path` is untouched.
    """
    with atomic_folder(path, is_file=True) as temporary:
        yield temporary


@contextmanager
def atomic_folder(path: Path, *, is_file: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, whole.

    With `is_file` the folder only shelters one file of the name of `path`, which is what is moved.
    What a process that was killed left of earlier attempts is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    shelter = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    descriptor = os.open(shelter, os.O_RDONLY)
    _lock(descriptor)
    try:
        made = shelter / path.name
        if not is_file:
            made.mkdir()
        yield made
        for file in [made] if is_file else [f for f in made.rglob("*") if f.is_file()]:
            _sync(file)
        if path.is_dir():
            path.rename(shelter / "replaced")
        made.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(shelter, ignore_errors=True)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Hold the open folder `descriptor` as long as this process lives; whether it was free.

    File systems that cannot lock a folder have none that is free.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of `path` whose makers are dead."""
    for entry in path.parent.glob(f".{glob.escape(path.name)}.*/"):
        with suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime < _IN_USE_SECONDS:  # perhaps not locked yet
                continue
            descriptor = os.open(entry, os.O_RDONLY)
            if _lock(descriptor):
                shutil.rmtree(entry, ignore_errors=True)
            os.close(descriptor)
