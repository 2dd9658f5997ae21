"""YAML: read by the rules of YAML 1.2, with limits and without duplicate keys, and written."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError

_MAX_DEPTH, _MAX_VALUES = 50, 100_000
_CORE = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}
"""Plain words that are not text: the core schema of YAML 1.2 (section 10.3.2), and merge keys."""


class _UniqueKeys:
    """A loader's part that refuses a key that a mapping contains twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                line = key_node.start_mark.line + 1
                key = (key_node.tag, key_node.value)
                if key in lines:
                    raise yaml.YAMLError(
                        f"line {line}: {key_node.value!r} is already in line {lines[key]}; "
                        "join the two, or remove one"
                    )
                lines[key] = line
        return super().construct_mapping(node, deep=deep)  # type: ignore[misc]


class _Loader(_UniqueKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader with the plain words of YAML 1.2: `yes` and `1:30` are text, `010` is ten."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, list[Any]]] = {}

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class TextLoader(_UniqueKeys, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """A loader that reads every value as text."""


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes whatever either version of YAML would not read as text."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _name, _words in _CORE.items():
    _arguments = (f"tag:yaml.org,2002:{_name}", re.compile(f"^({_words})$"), None)
    _Loader.add_implicit_resolver(*_arguments)
    _Dumper.add_implicit_resolver(*_arguments)


def parse_yaml(text: str, loader: Any = _Loader) -> Any:
    """Parse YAML.

    Raises:
        ValueError: invalid YAML, a key that a mapping contains twice, nesting that is too deep, or
            aliases that expand to more values than any configuration has.
    """
    try:
        _check_size(yaml.parse(text, loader))
        return yaml.load(text, loader)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # for a value that does not match its tag, PyYAML raises almost any of them
        raise ValueError(" ".join(str(error).split())) from None


def _check_size(events: Iterator[yaml.Event]) -> None:
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
        if count > _MAX_VALUES:
            raise ValueError(f"expands to more than {_MAX_VALUES:,} values")


def read_yaml(path: Path, loader: Any = _Loader) -> Any:
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


def format_yaml(content: Any) -> str:
    """Return `content` as YAML, in the order of its keys."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
    return text
