"""JSON and YAML: everything odd is an error, and nothing is waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.files.formats import parse_json, read_json
from bigbatch_ue.files.yaml_files import TextLoader, format_yaml, parse_yaml, read_yaml
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2024-05-01", "2024-05-01"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x10", 16),
        ("1e-3", 0.001),
        ("true", True),
        ("~", None),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_plain_words_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize("value", ["yes", "010", "1e3", "1:30", "null", "", "a: b", "ä", 1e-5, 10])
def test_what_is_written_is_read_back(value: Any) -> None:
    assert parse_yaml(format_yaml({"key": value})) == {"key": value}


@pytest.mark.parametrize("loader", [{}, {"loader": TextLoader}])
def test_a_key_that_is_there_twice_is_refused_with_its_lines(loader: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="line 3: 'b' is already in line 2; join the two"):
        parse_yaml("a:\n  b: 1\n  b: 2\n", **loader)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        read(tmp_path / "pipe")
