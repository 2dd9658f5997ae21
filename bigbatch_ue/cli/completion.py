"""What a shell offers after Tab: names, and the words of settings."""

from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel

from bigbatch_ue.config.names import DATASETS, KINDS, PRESETS, TARGETS
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.words import alternatives, fields_by_key, section_of

_OF_EVALUATION = ("evaluation.", "target.")


def complete_preset(incomplete: str) -> list[str]:
    """Offer the presets of runs."""
    return [name for name in PRESETS if name.startswith(incomplete)]


def complete_shown_preset(incomplete: str) -> list[str]:
    """Offer the presets of runs and of targets."""
    return [name for name in (*PRESETS, *TARGETS) if name.startswith(incomplete)]


def complete_target(incomplete: str) -> list[str]:
    """Offer the presets of targets."""
    return [name for name in TARGETS if name.startswith(incomplete)]


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer `key=` words, and `key=value` words as soon as a single key is meant."""
    of_evaluation = ctx.info_name == "evaluate"
    values = {
        key: choices
        for key, choices in _settings(Config, Config().model_dump(mode="json"))
        if not of_evaluation or key.startswith(_OF_EVALUATION)
    }
    # bash cuts words at `=`, and then replaces the part after it.
    given = ctx.params.get("overrides") or ctx.params.get("arguments") or ()
    before = [word for word in given if word != "="]
    if before and before[-1] in values and "=" not in incomplete:
        return [value for value in values[before[-1]] if value.startswith(incomplete)]
    key = incomplete.partition("=")[0]
    keys = [each for each in values if each.startswith(key)]
    if key in values or len(keys) == 1:
        (meant,) = [key] if key in values else keys
        words = [f"{meant}={value}" for value in ("", *values[meant])]
        return [word for word in words if word.startswith(incomplete)]
    return [f"{each}=" for each in keys]


def _settings(
    section: type[BaseModel], defaults: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yield each key, and the values to offer: all if they are few, else the default."""
    schema = section.model_json_schema()
    for name, field in fields_by_key(section).items():
        key, inner = f"{prefix}{name}", section_of(field)
        if field.annotation is inner and inner is not None:
            yield from _settings(inner, defaults[name], f"{key}.")
        elif key == "data.name":
            yield key, [*DATASETS, *KINDS]
        else:
            choices = _choices(schema["properties"][name], schema.get("$defs", {}))
            default = defaults.get(name)
            plain = isinstance(default, int | float | str)
            yield key, choices or ([f"{default}"] if plain else [])


def _choices(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Return the words that a JSON schema allows, if it allows only words."""
    match schema:
        case {"$ref": reference}:
            return _choices(definitions[reference.rpartition("/")[2]], definitions)
        case {"anyOf": either}:
            return [word for each in either for word in _choices(each, definitions)]
        case {"enum": words}:
            return [str(word) for word in words]
        case {"const": word}:
            return [str(word)]
        case {"pattern": pattern} if pattern.startswith("^("):
            return [word.partition(":")[0] + ":" * (":" in word) for word in alternatives(pattern)]
        case {"type": "boolean"}:
            return ["true", "false"]
        case {"type": "null"}:
            return ["null"]
    return []
