"""Tensors on disk: safetensors files, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigbatch_ue.artefacts import atomic_file
from bigbatch_ue.errors import UserError

_METADATA = "bigbatch_ue"


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
