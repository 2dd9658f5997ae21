"""From a preset or file, nested settings and `key=value` words to a validated configuration."""

import itertools
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bigbatch_ue.config.bundled import read_preset, read_target
from bigbatch_ue.config.names import KIND_OF_SUFFIX
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.words import explain, field_at, fields_by_key, kinds_of
from bigbatch_ue.files.yaml_files import parse_yaml, read_yaml
from bigbatch_ue.runtime.errors import UserError

Root = TypeVar("Root", bound=BaseModel)


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    settings: Iterable[Mapping[str, Any]] = (),
) -> Config:
    """Resolve a configuration: defaults, then `preset` or `file`, `settings`, `overrides`.

    What comes later wins.

    Args:
        preset: one of `config.names.PRESETS`.
        file: a YAML or JSON file of sections; not together with `preset`.
        overrides: `key=value` words, such as `batch.effective=4096`; a text or path is taken as it
            is, other values are YAML.
        settings: mappings, nested like a file.

    Raises:
        UserError: an unknown preset or key, an unreadable file or an invalid value, and the message
            names the key and what is allowed; or an override of the budget that is not in use.
    """
    if preset is not None and file is not None:
        raise UserError("preset and config file: give one of them, not both")
    content: dict[str, Any] = {}
    if preset is not None:
        content = read_preset(preset)
    elif file is not None:
        content = read_settings(file)
    for layer in settings:
        content = _merge(_without_replaced(content, layer, Config), layer)
    overrides = list(overrides)
    config = resolve(Config, content, overrides, file)
    _refuse_idle_budget(config, {override.partition("=")[0] for override in overrides})
    return config


def _refuse_idle_budget(config: Config, given: Container[str]) -> None:
    """Stop if a budget is among the `given` keys, but the preset or file uses the other kind."""
    idle = "epochs" if config.budget.kind == "steps" else "steps"
    if f"budget.{idle}" in given and "budget.kind" not in given:
        raise UserError(
            f"budget.{idle}: has no effect with budget.kind={config.budget.kind}; "
            f"add budget.kind={idle}"
        )


def revise_evaluation(
    config: Config, target: str | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Return `config` for an evaluation, with a target preset and then `key=value` overrides.

    Args:
        config: the configuration of the run.
        target: one of `config.names.TARGETS`; None keeps the target of `config`.
        overrides: settings of `target`, `evaluation`, `tracking` and `data.root`.

    Raises:
        UserError: as for `load_config`, or an override that belongs to the run.
    """
    content = config.model_dump(mode="json")
    if target is not None:
        content["target"] = read_target(target)
    revised = resolve(Config, content, overrides)
    if revised.answer() != config.answer() or revised.output != config.output:
        own = ("target", "evaluation", "tracking=", "data.root=")
        refused = [override for override in overrides if not override.startswith(own)]
        raise UserError(
            f"{' '.join(refused)}: belongs to the run, so that an evaluation cannot change it; "
            "set only target.*, evaluation.*, tracking and data.root"
        )
    return revised


def resolve(
    root: type[Root],
    content: dict[str, Any],
    overrides: Iterable[str] = (),
    file: Path | None = None,
) -> Root:
    """Return `content`, changed by `key=value` overrides, as a validated `root`.

    Raises:
        UserError: as for `load_config`; it names `file` if that is where the fault is.
    """
    before = deepcopy(content)
    overrides = list(overrides)
    given: dict[str, Any] = {}
    for index, override in enumerate(overrides):
        if not _is_setting(override):
            raise UserError(_not_a_setting(overrides, index, root))
        _apply(given, override, root)
    content = _without_replaced(content, given, root)
    for override in overrides:
        _apply(content, override, root)
    try:
        return root.model_validate(content)
    except ValidationError as error:
        problem = explain(error.errors(), root)
    if file is not None and _problem(before, root) == problem:
        problem = f"{file}: {problem}"
    raise UserError(problem)


def _without_replaced(
    below: dict[str, Any], above: Mapping[str, Any], root: type[BaseModel]
) -> dict[str, Any]:
    """Drop from `below` what loses its meaning by `above`; both are settings of `root`."""
    return _without_args_of_replaced_models(_without_replaced_batch(below, above), above, root)


def _without_args_of_replaced_models(
    below: Mapping[str, Any],
    above: Mapping[str, Any],
    root: type[BaseModel],
    keys: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Drop the `args` beside each `model` that changes: they are those of another network."""
    kept = dict(below)
    for key, inner in above.items():
        own = below.get(key)
        if isinstance(inner, Mapping) and isinstance(own, Mapping):
            kept[key] = _without_args_of_replaced_models(own, inner, root, (*keys, key))
    field = field_at([*keys, "model"], root) if "model" in above else None
    if field and above["model"] != below.get("model", field.default):
        kept.pop("args", None)
    return kept


def _without_replaced_batch(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Drop `batch.effective` from `below` if `above` lists a schedule, which ends with another."""
    own, replaced = above.get("batch"), below.get("batch")
    if not (isinstance(own, Mapping) and isinstance(replaced, Mapping)) or "effective" in own:
        return below
    if not isinstance(own.get("schedule"), list | tuple):
        return below
    return {**below, "batch": {key: v for key, v in replaced.items() if key != "effective"}}


def _problem(content: dict[str, Any], root: type[BaseModel]) -> str | None:
    """Return what is wrong with `content`, in one line."""
    try:
        root.model_validate(content)
    except ValidationError as error:
        return explain(error.errors(), root)
    return None


def read_settings(file: Path) -> dict[str, Any]:
    """Read a YAML file of sections; an empty one has none.

    Raises:
        UserError: a file that cannot be read, or contains something else.
    """
    content = read_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: contains a {type(content).__name__} instead of sections; "
            "write `section: {key: value}`"
        )
    return content


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `above` over `below`, section by section."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merge(below[key], above[key])
    return merged


def _apply(content: dict[str, Any], override: str, root: type[BaseModel]) -> None:
    """Set a `key=value` override in `content`."""
    key, _, text = override.partition("=")
    *sections, last = keys = key.split(".")
    for depth, section in enumerate(sections, start=1):
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(_not_a_section(key, ".".join(sections[:depth])))
    content[last] = _read_word(key, text, field_at(keys, root))


def _is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(key and equals)


def _not_a_setting(words: Sequence[str], index: int, root: type[BaseModel]) -> str:
    """Say that a word is not a setting, and what was probably meant."""
    word, before = words[index], words[:index]
    how = "such as batch.effective=4096"
    if root is not Config:
        how = f"with one of the keys {', '.join(fields_by_key(root))}"
    problem = f"{word!r}: not a setting; write key=value, {how}"
    if before and _takes_text(before[-1], root):
        rest = itertools.takewhile(lambda each: not _is_setting(each), words[index:])
        whole = shlex.quote(" ".join([before[-1], *rest]))
        return f"{problem}; if it belongs to the word before it, put quotes around both: {whole}"
    if root is not Config:
        return problem
    place, run = Path(word), Path(word) / "config.yaml"
    if run.is_file():
        return f"{problem}; the settings of that run are --config {shlex.quote(str(run))}"
    if word and place.is_dir():
        return f"{problem}; for the images in it, {shlex.quote(f'data.name=folder:{word}')}"
    if kind := KIND_OF_SUFFIX.get(place.suffix):
        return f"{problem}; for the images in it, {shlex.quote(f'data.name={kind}:{word}')}"
    if place.suffix in (".yaml", ".yml"):
        return f"{problem}; for the settings in it, --config {shlex.quote(word)}"
    return problem


def _takes_text(setting: str, root: type[BaseModel]) -> bool:
    """Return whether the value of a `key=value` word is text or a path, so that it may go on."""
    field = field_at(setting.partition("=")[0].split("."), root)
    return field is not None and bool(kinds_of(field) & {str, Path})


def _read_word(key: str, text: str, field: FieldInfo | None) -> Any:
    """Read the value of a setting as its field has it: text and paths literally, others as YAML."""
    kinds = kinds_of(field) if field else set()
    if kinds & {str, Path} and not (text == "null" and NoneType in kinds):
        return text
    try:
        return parse_yaml(text)
    except ValueError:
        raise UserError(f"{key}={text}: not valid YAML; check quotes and brackets") from None


def _not_a_section(key: str, outer: str) -> str:
    return f"{key}: {outer} is a value, not a section; set {outer} itself"
