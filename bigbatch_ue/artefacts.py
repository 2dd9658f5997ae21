"""Artefacts on disk: made in a temporary place, synced, then renamed; no pickle anywhere."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigbatch_ue.errors import UserError

_METADATA = "bigbatch_ue"


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able metadata as one safetensors file, atomically.

    Raises:
        UserError: the file cannot be written, such as on a full disk.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={_METADATA: json.dumps(metadata)})
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file: tensors by name (on the CPU) and the metadata written with them.

    Raises:
        UserError: the file is missing, or is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def require(path: Path, tensors: Mapping[str, Tensor], **expected: tuple[int, torch.dtype]) -> None:
    """Check that `tensors` holds each expected name with (number of dimensions, dtype).

    Raises:
        UserError: naming `path` and the first tensor that is missing or of another kind.
    """
    for name, (dimensions, dtype) in expected.items():
        found = tensors.get(name)
        if found is None:
            raise UserError(f"{path}: holds no tensor {name!r}")
        if found.ndim != dimensions or found.dtype != dtype:
            raise UserError(
                f"{path}: {name!r} is {found.ndim}-D {found.dtype}, expected {dimensions}-D {dtype}"
            )
