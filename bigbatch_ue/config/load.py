"""From a preset or file, nested settings and `key=value` words to a validated configuration."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bigbatch_ue.config.names import DATASETS, MEDMNIST_2D, PRESETS, TARGETS
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import parse_yaml, read_yaml
from bigbatch_ue.runtime.errors import UserError

Root = TypeVar("Root", bound=BaseModel)


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    settings: Iterable[Mapping[str, Any]] = (),
) -> Config:
    """Resolve a configuration: defaults, `preset` or `file`, `settings`, `key=value` overrides.

    Each of `settings` is nested as a file is, and goes over what comes before it.

    Raises:
        UserError: an unknown preset, unreadable file, unknown key or impossible value; the message
            names the key and what is allowed.
    """
    if preset is not None and file is not None:
        raise UserError("give either a preset or a config file, not both")
    content: dict[str, Any] = {}
    if preset is not None:
        content = _preset(preset)
    elif file is not None:
        content = read_settings(file)
    for more in settings:
        content = _merged(content, more)
    return resolve(Config, content, overrides)


def revise_evaluation(
    config: Config, target: str | None = None, overrides: Iterable[str] = ()
) -> Config:
    """`config` with the target preset of `TARGETS`, then `key=value` overrides, for evaluation.

    Raises:
        UserError: as for `load`, or an override that would make another run of it.
    """
    content = config.model_dump(mode="json")
    if target is not None:
        if target not in TARGETS:
            raise UserError(f"unknown target {target!r}; allowed: {', '.join(TARGETS)}")
        content["target"] = _bundled("targets")[target]
    revised = resolve(Config, content, overrides)
    if revised.answer() != config.answer() or revised.output != config.output:
        raise UserError("only target.*, evaluation.* and data.root can change for an evaluation")
    return revised


def resolve(root: type[Root], content: dict[str, Any], overrides: Iterable[str]) -> Root:
    """`content` with `key=value` overrides, as a validated `root`.

    Raises:
        UserError: as for `load`.
    """
    for override in overrides:
        _apply(content, override)
    try:
        return root.model_validate(content)
    except ValidationError as error:
        raise UserError("; ".join(_explain(e, root) for e in error.errors())) from None


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
    family = "medmnist" if name in MEDMNIST_2D else name
    content = _bundled(family)
    if name in DATASETS:
        content.setdefault("data", {})["name"] = name
    return content


def _bundled(name: str) -> dict[str, Any]:
    """A file of `presets/`, read."""
    text = resources.files("bigbatch_ue.config").joinpath(f"presets/{name}.yaml").read_text()
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def read_settings(file: Path) -> dict[str, Any]:
    """A YAML file of sections.

    Raises:
        UserError: a file that cannot be read or is something else.
    """
    content = read_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: expected `section: {{key: value}}`, found {type(content).__name__}"
        )
    return content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merged(below[key], above[key])
    return merged


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not of the form key=value, such as batch.effective=4096")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"{key}: {text!r} is not a readable value") from None
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"{key}: {section!r} is a value, not a section")
    content[last] = value


def _explain(error: Any, root: type[BaseModel]) -> str:
    location = [part for part in error["loc"] if isinstance(part, str)]
    key = ".".join(location) or "configuration"
    if error["type"] == "extra_forbidden":
        section = _section_at(root, location[:-1])
        return f"{key}: unknown key; allowed: {', '.join(_keys(section))}"
    if error["type"] == "model_type":
        allowed = ", ".join(_keys(_section_at(root, location)))
        return f"{key}={error['input']!r}: this is a section; it takes {allowed}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _section_at(root: type[BaseModel], location: list[str]) -> type[BaseModel]:
    section = root
    for name in location:
        annotation = _keys(section)[name].annotation
        candidates = get_args(annotation) if get_origin(annotation) else (annotation,)
        section = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section
        )
    return section


def _keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}
