"""Artefacts on disk: made in a temporary place, synced, then renamed; no pickle anywhere."""

import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from bigbatch_ue.errors import UserError

_NEW = 10.0
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
            if time.time() - entry.stat().st_mtime < _NEW:  # perhaps not locked yet
                continue
            descriptor = os.open(entry, os.O_RDONLY)
            if _lock(descriptor):
                shutil.rmtree(entry, ignore_errors=True)
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a file that is missing or torn is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_yaml(path: Path, loader: Any = yaml.SafeLoader) -> Any:
    """Read a YAML or JSON file; one that is missing or not valid is a `UserError` that names it."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def homeless(text: str) -> str:
    """`text` without the way to the user's home folder, for what may be passed on."""
    return text.replace(str(Path.home()), "~")
