"""JSON and YAML: read with limits, written atomically, and digested."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH, _MAX_YAML_VALUES = 50, 100_000


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: invalid JSON, NaN, an infinity, or nesting that is too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid JSON")


def _finite(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def read_json(path: Path, kind: type = object) -> Any:
    """Read a JSON file that contains a `kind`.

    Raises:
        UserError: the file is missing, damaged or contains something else.
    """
    try:
        content = parse_json(require_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a {kind.__name__}, found {type(content).__name__}")
    return content


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a record: its dotted key, if it has one, and what is wrong."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def parse_yaml(text: str, loader: Any = _LOADER) -> Any:
    """Parse YAML.

    Raises:
        ValueError: invalid YAML, nesting that is too deep, or aliases that expand to more values
            than any configuration has.
    """
    try:
        _check_yaml_size(yaml.parse(text, loader))
        return yaml.load(text, loader)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # for a value that does not match its tag, PyYAML raises almost any of them
        raise ValueError(" ".join(str(error).split())) from None


def _check_yaml_size(events: Iterator[yaml.Event]) -> None:
    """Raise ValueError for nesting that is too deep, or too many values with aliases expanded."""
    count = 0
    open_collections: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"unknown alias *{event.anchor}")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor)
            open_collections.append((event.anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = open_collections.pop()
            sizes[anchor] = count - start + 1
        if len(open_collections) > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if count > _MAX_YAML_VALUES:
            raise ValueError(f"expands to more than {_MAX_YAML_VALUES:,} values")


def read_yaml(path: Path, loader: Any = _LOADER) -> Any:
    """Read a YAML or JSON file.

    Raises:
        UserError: the file is missing or invalid.
    """
    try:
        return parse_yaml(require_file(path).read_text(encoding="utf-8"), loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from None


def digest(content: Any) -> str:
    """Compute twelve hexadecimal digits that identify JSON-able `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
