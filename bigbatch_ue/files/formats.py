"""JSON: read with limits, written atomically, and digested."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runtime.errors import UserError


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


def digest(content: Any) -> str:
    """Compute twelve hexadecimal digits that identify JSON-able `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
