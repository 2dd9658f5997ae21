"""JSON and YAML: everything odd is an error, and nothing is waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.files.formats import parse_json, parse_yaml, read_json, read_yaml
from bigbatch_ue.runtime.errors import UserError


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", "[" * 100_000, "9" * 5000])
def test_odd_json_is_invalid(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_json_of_another_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps([1]))
    with pytest.raises(UserError, match=r"run\.json: expected a dict"):
        read_json(path, dict)


def test_a_few_aliases_are_fine_but_a_bomb_is_not() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(ValueError, match="more than"):
        parse_yaml("\n".join(["a0: &a0 [x, x]", *levels]))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 20_000, "&a [*a]", "!!python/name:os.system", "!!int ''", "*a"]
)
def test_odd_yaml_is_invalid(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        read(tmp_path / "pipe")
