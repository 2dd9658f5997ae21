"""The configuration in words: keys, allowed values, and validation errors."""

import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bigbatch_ue.config.section import SettingsOf

_KINDS = {
    "bool": "true or false",
    "dict": "a mapping, such as {key: value}",
    "float": "a number",
    "int": "a whole number",
    "path": "text",
    "string": "text",
    "tuple": "a list",
}
"""Expected values in words, by the first part of the type of a pydantic error."""
_PLACEHOLDERS = {".+": "PATH", r"[1-9]\d{0,8}": "M", r"^[^/\x00-\x1f]+$": "text without /"}
"""Words for the parts of a field's pattern that stand for many values."""


def alternatives(pattern: str) -> list[str]:
    """List what the pattern `^(one|two|three:.+)$` of a field allows: one, two, three:PATH."""
    choices = pattern.removeprefix("^(").removesuffix(")$")
    for part, word in _PLACEHOLDERS.items():
        choices = choices.replace(part, word)
    return choices.split("|")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field contains, itself or as elements; None for a value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def fields_by_key(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the keys that a file has for them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def field_at(keys: Sequence[str], root: type[BaseModel]) -> FieldInfo | None:
    """Return the field at a way through the sections of `root`; None if there is none.

    Where a mapping contains settings of another model (`SettingsOf`), the way goes on there.
    """
    section, field = root, None
    for depth, key in enumerate(keys, start=1):
        field = fields_by_key(section).get(key)
        if field is None or depth == len(keys):
            return field
        inner = next((m.root for m in field.metadata if isinstance(m, SettingsOf)), None)
        inner = inner or section_of(field)
        if inner is None:
            return None
        section = inner
    return field


def kinds_of(field: FieldInfo) -> set[Any]:
    """Return the types that a field's annotation is made of, such as `{str, NoneType}`."""

    def kinds(annotation: Any) -> set[Any]:
        inside = get_args(annotation)
        if get_origin(annotation) in (Annotated, Union, UnionType):
            inside = inside[:1] if get_origin(annotation) is Annotated else inside
            return set().union(*map(kinds, inside))
        return {annotation}

    return kinds(field.annotation)


def explain(errors: Sequence[ErrorDetails], root: type[BaseModel]) -> str:
    """Return in one line what is wrong with which keys; alternatives for a key are joined."""
    problems: dict[str, list[str]] = {}
    for error in errors:
        if error["type"] != "too_short" or not _has_errors_within(error, errors):
            where, problem = _problem(error, root)
            problems.setdefault(where, []).append(problem)
    return "; ".join(f"{where}{_join(texts)}" for where, texts in problems.items())


def _has_errors_within(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Return whether a list only counts as too short because of errors in its elements."""
    depth = len(error["loc"])
    return any(len(e["loc"]) > depth and e["loc"][:depth] == error["loc"] for e in errors)


def _problem(error: ErrorDetails, root: type[BaseModel]) -> tuple[str, str]:
    """Return where an error is, with the colon after it, and what is wrong there."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]), ""
    key, section = _locate(error["loc"], root)
    keys = ", ".join(fields_by_key(section))
    if error["type"] == "extra_forbidden":
        return f"{key}: ", f"unknown key; allowed: {keys}"
    if error["type"] == "missing":
        return f"{key}: ", "missing; set it"
    where = f"{key}={error['input']!r}: "
    if error["type"] in ("model_type", "model_attributes_type"):
        return where, f"{key} is a section; set one of its keys: {keys}"
    return where, _expected(error)


def _expected(error: ErrorDetails) -> str:
    """Return what a value must be, in words."""
    if error["type"] == "string_pattern_mismatch":
        *choices, last = alternatives(error["ctx"]["pattern"])
        return f"must be {', '.join(choices)} or {last}" if choices else f"must be {last}"
    if error["type"] == "too_short":
        return f"must have at least {error['ctx']['min_length']} item"
    kind = _KINDS.get(error["type"].partition("_")[0])
    if kind is not None:
        return f"must be {kind}"
    return re.sub("^Input should ", "must ", error["msg"])


def _join(texts: Sequence[str]) -> str:
    """Join `must be one`, `must be two` to `must be one or two`."""
    return " or ".join([texts[0], *(text.removeprefix("must be ") for text in texts[1:])])


def _locate(location: Sequence[int | str], root: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return the dotted key of an error's location, and the innermost section on the way to it.

    Indices of lists are left out, and so is all that pydantic says below a value.
    """
    section, keys = root, []
    for part in location:
        if isinstance(part, str):
            keys.append(part)
            field = fields_by_key(section).get(part)
            inner = section_of(field) if field else None
            if inner is None:
                break
            section = inner
    return ".".join(keys), section
