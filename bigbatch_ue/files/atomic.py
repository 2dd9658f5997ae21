"""Artefacts on disk: made in a temporary place, synced, then renamed; no pickle anywhere."""

import fcntl
import glob
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from bigbatch_ue.runtime.errors import UserError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST, _MOST = 50, 100_000
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


def regular(path: Path) -> Path:
    """`path`, which must be a file: opening a pipe waits for ever, and a device has no end.

    Raises:
        UserError: there is none, or something else.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}") from None
    raise UserError(f"{path}: not a file")


def parse_json(text: str | bytes) -> Any:
    """What JSON `text` says; NaN, infinities and nesting that is too deep are a `ValueError`."""
    try:
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def read_json(path: Path, kind: type = object) -> Any:
    """Read a JSON file that holds a `kind`.

    Raises:
        UserError: naming the file if it is missing, torn or holds something else.
    """
    try:
        content = parse_json(regular(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a {kind.__name__}, found {type(content).__name__}")
    return content


def parse_yaml(text: str, loader: Any = _LOADER) -> Any:
    """What YAML `text` says.

    Raises:
        ValueError: not valid, nested too deeply, or so many aliases that it stands for more than a
            configuration may hold.
    """
    try:
        _bound(yaml.parse(text, loader))
        return yaml.load(text, loader)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # PyYAML meets a value that its tag does not fit with nearly any of them
        raise ValueError(" ".join(str(error).split())) from None


def _bound(events: Iterator[yaml.Event]) -> None:
    """Count the values of a YAML document, those that aliases stand for included."""
    count = 0
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} is not known here")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor)
            opened.append((event.anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            sizes[anchor] = count - start + 1
        if len(opened) > _DEEPEST:
            raise ValueError("nested too deeply")
        if count > _MOST:
            raise ValueError(f"stands for more than {_MOST:,} values")


def read_yaml(path: Path, loader: Any = _LOADER) -> Any:
    """Read a YAML or JSON file; one that is missing or not valid is a `UserError` that names it."""
    try:
        return parse_yaml(regular(path).read_text(encoding="utf-8"), loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from None


def place_of(text: str) -> Path:
    """The path that a user has written, `~` being a home folder.

    Raises:
        UserError: nobody's home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such home folder") from None


def homeless(text: str) -> str:
    """`text` without the way to the user's home folder, for what may be passed on."""
    return text.replace(str(Path.home()), "~")
