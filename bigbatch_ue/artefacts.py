"""Artefacts on disk: made in a temporary place, synced, then renamed; no pickle anywhere."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bigbatch_ue.errors import UserError


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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shelter = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
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
