"""The presets that come with the program: their settings, and what each is for."""

from importlib import resources
from typing import Any

from bigbatch_ue.config.names import DATASETS, MEDMNIST_2D, PARITY, PRESETS, TARGETS
from bigbatch_ue.files.yaml_files import format_yaml, parse_yaml
from bigbatch_ue.runtime.errors import UserError

_TARGETS = "targets"


def read_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset, nested like a file.

    Args:
        name: one of `config.names.PRESETS`.

    Raises:
        UserError: an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"preset: unknown name {name!r}; allowed: {', '.join(PRESETS)}")
    content: dict[str, Any] = parse_yaml(_text(_file_of(name)))
    dataset = name.removesuffix(PARITY)
    if dataset in DATASETS:
        content.setdefault("data", {})["name"] = dataset
    return content


def read_target(name: str) -> dict[str, Any]:
    """Return the settings of `target` in a preset of the target network.

    Args:
        name: one of `config.names.TARGETS`.

    Raises:
        UserError: an unknown name.
    """
    if name not in TARGETS:
        raise UserError(f"target: unknown name {name!r}; allowed: {', '.join(TARGETS)}")
    content: dict[str, Any] = parse_yaml(_text(_TARGETS))[name]
    return content


def purposes() -> dict[str, list[str]]:
    """Return what presets are for, each with the names of the presets for it."""
    named: dict[str, list[str]] = {}
    for name in PRESETS:
        named.setdefault(_purpose(_file_of(name)), []).append(name)
    return named | {_purpose(_TARGETS): list(TARGETS)}


def preset_as_yaml(name: str) -> str:
    """Return the settings of a preset, of a run or of the target network, as a file for `--config`.

    Raises:
        UserError: an unknown name.
    """
    if name in TARGETS:
        file, content = _TARGETS, {"target": read_target(name)}
    else:
        file, content = _file_of(name), read_preset(name)
    return f"# {_purpose(file)}\n# All else has the defaults of docs/settings.md.\n" + format_yaml(
        content
    )


def _file_of(preset: str) -> str:
    """Return the name of the file of a preset; those of MedMNIST share one."""
    dataset = preset.removesuffix(PARITY)
    family = "medmnist" if dataset in MEDMNIST_2D else dataset
    return family + preset.removeprefix(dataset)


def _purpose(file: str) -> str:
    """Return the comment at the beginning of a file, in one line."""
    lines = _text(file).splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("# ") for line in lines[:end])


def _text(file: str) -> str:
    return resources.files("bigbatch_ue.config").joinpath(f"presets/{file}.yaml").read_text()
