"""Safetensors files, written atomically, with JSON metadata and a checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import parse_json
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError

_METADATA, _CHECKSUM = "bigbatch_ue", "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able metadata as one safetensors file, atomically.

    Raises:
        UserError: the file cannot be written, for example on a full disk.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    header = {_METADATA: text, _CHECKSUM: _checksum(contiguous, text)}
    with atomic_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=header)
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file: tensors by name (on the CPU) and the metadata written with them.

    Raises:
        UserError: the file is missing, incomplete, or not as it was written.
    """
    try:
        with safe_open(require_file(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = header.get(_METADATA, "{}")
        metadata = parse_json(text)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: not a file of this program (its metadata is not a mapping)")
    if _METADATA in header and header.get(_CHECKSUM) != _checksum(tensors, text):
        raise UserError(f"{path}: damaged (its checksum differs)")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: str) -> str:
    """Compute the SHA-256 of metadata, and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_tensors(
    path: Path, tensors: Mapping[str, Tensor], **expected: tuple[int, torch.dtype]
) -> None:
    """Check that `tensors` contains each expected name with (number of dimensions, dtype).

    Raises:
        UserError: a tensor is missing, or of other dimensions or dtype.
    """
    for name, (dimensions, dtype) in expected.items():
        if name not in tensors:
            raise UserError(f"{path}: contains no tensor {name!r}")
        tensor = tensors[name]
        if tensor.ndim != dimensions or tensor.dtype != dtype:
            raise UserError(
                f"{path}: {name!r} is {tensor.ndim}-D {tensor.dtype}, "
                f"expected {dimensions}-D {dtype}"
            )
