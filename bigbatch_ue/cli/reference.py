"""The reference of all settings, docs/settings.md, made from the schema.

python -m bigbatch_ue.cli.reference > docs/settings.md
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from bigbatch_ue.config.names import PRESETS
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.words import alternatives, fields_by_key, section_of
from bigbatch_ue.sweeps.spec import SweepSpec

UPDATE = "python -m bigbatch_ue.cli.reference > docs/settings.md"

_INTRODUCTION = f"""\
# Settings

<!-- Generated from the schema; do not edit. To update: {UPDATE} -->

Every command that trains or evaluates takes settings. Later ones win:

1. the defaults below;
2. a preset (`--preset NAME`) or a YAML file of sections (`--config FILE`);
3. `key=value` words, such as `batch.effective=4096`.

```sh
bigbatch-ue train --preset digits batch.effective=4096 optimizer.lr=1e-3
```

The same as a file:

```yaml
batch: {{effective: 4096}}
optimizer: {{lr: 1e-3}}
```

A text or a path is taken as it is typed; a leading `~` is the home folder. Other values are YAML
1.2, where `010` is ten and `yes` is text. Numbers must be finite. An unknown key or an invalid
value is an error that names what is allowed. A run keeps all of its settings in `config.yaml`.

Presets: {", ".join(f"`{name}`" for name in PRESETS)}.
[Some](results.md#settings-of-the-study) have the settings of the study. `bigbatch-ue presets` says
what each is for, and `bigbatch-ue presets NAME` shows its settings: where a preset sets a value,
the default below does not apply.

More about [batches](batches.md), [the computation](speed.md#settings-of-the-computation),
[checkpoints](launching.md#interruption-checkpoints-and-resume), [evaluation](evaluation.md) and
[sweeps](sweeps.md).
"""

_SWEEPS = """\
## Sweep files

The keys of the YAML file of `bigbatch-ue sweep --config FILE`; [sweeps.md](sweeps.md) explains it.
"""

_RANGES = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_LARGE = 2**16


def settings_reference() -> str:
    """Return docs/settings.md: each key with its allowed values, default and meaning."""
    defaults = Config().model_dump(mode="json")
    parts = [
        _INTRODUCTION,
        "## Run\n",
        _table(Config, defaults),
        *_sections(Config, defaults, "", "##"),
        _SWEEPS,
        _table(SweepSpec, {}),
        *_sections(SweepSpec, {}, "", "###"),
    ]
    return "\n".join(parts)


def _sections(
    parent: type[BaseModel], defaults: dict[str, Any], prefix: str, heading: str
) -> Iterator[str]:
    """Yield heading, purpose and table of each section below `parent`, nested ones after it."""
    for name, field in fields_by_key(parent).items():
        section = section_of(field)
        if section is not None:
            key, own = f"{prefix}{name}", defaults.get(name, {})
            yield f"{heading} {key}\n"
            yield f"{field.description or section.__doc__}\n"
            yield _table(section, own, f"{key}.")
            yield from _sections(section, own, f"{key}.", f"{heading}#")


def _table(section: type[BaseModel], defaults: dict[str, Any], prefix: str = "") -> str:
    """Return the table of the values in a section."""
    schema = section.model_json_schema()
    lines = ["| key | allowed values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields_by_key(section).items():
        if field.annotation is not section_of(field) or field.is_required():
            properties = schema["properties"][name]
            allowed = _allowed(properties, schema.get("$defs", {}))
            default = defaults.get(name, properties.get("default"))
            shown = "required" if field.is_required() else f"`{_as_yaml(default)}`"
            lines.append(f"| `{prefix}{name}` | {allowed} | {shown} | {field.description} |")
    return "\n".join([*lines, ""])


def _allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return in words what a JSON schema allows."""
    match schema:
        case {"$ref": reference}:
            return _allowed(definitions[reference.rpartition("/")[2]], definitions)
        case {"anyOf": choices}:
            either = [_allowed(choice, definitions) for choice in choices]
            return " or ".join(sorted(either, key=lambda text: text[0] != "`"))
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"pattern": pattern}:
            return ", ".join(f"`{choice}`" for choice in alternatives(pattern))
        case {"type": "array", "items": elements}:
            words = re.sub("(integer|number|mapping)", r"\1s", _allowed(elements, definitions))
            return f"list of {words}"
        case {"type": "integer" | "number" as kind}:
            bounds = (f"{sign} {_bound(schema[k])}" for k, sign in _RANGES.items() if k in schema)
            return ", ".join((kind, *bounds))
        case {"format": "path"}:
            return "path"
    return {"boolean": "`true`, `false`", "null": "`null`", "object": "mapping"}.get(
        schema["type"], "text"
    )


def _bound(number: float) -> str:
    """Return a bound of a range, a large power of two as such."""
    if number >= _LARGE and int(number).bit_count() == 1:
        return f"2^{int(number).bit_length() - 1}"
    return f"{number:g}"


def _as_yaml(value: Any) -> str:
    """Return a default as a user would write it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list():
            return f"[{', '.join(map(_as_yaml, value))}]"
    return str(value)


if __name__ == "__main__":
    print(settings_reference(), end="")
