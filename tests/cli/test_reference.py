"""The reference of settings: it is current, and complete."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bigbatch_ue.cli.reference import UPDATE, settings_reference
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.words import fields_by_key, section_of
from bigbatch_ue.sweeps.spec import SweepSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"


def values_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key below `section` that has a value of its own."""
    for key, field in fields_by_key(section).items():
        inner = section_of(field)
        if inner is None:
            yield f"{prefix}{key}", field
        else:
            yield from values_of(inner, f"{prefix}{key}.")


def test_the_reference_is_current() -> None:
    written = (DOCS / "settings.md").read_text()
    assert written == settings_reference(), f"docs/settings.md is out of date; run: {UPDATE}"


@pytest.mark.parametrize("root", [Config, SweepSpec])
def test_every_setting_has_a_sentence_and_a_row(root: type[BaseModel]) -> None:
    reference = settings_reference()
    for key, field in values_of(root):
        assert field.description, key
        assert field.description[0].isupper(), key
        assert field.description.endswith("."), key
        assert f"| `{key}` | " in reference


def test_rows_are_markdown_whose_code_ends_where_it_should() -> None:
    for row in settings_reference().splitlines():
        assert "``" not in row.replace("```", ""), row


def test_rows_say_what_is_allowed_and_the_default() -> None:
    reference = settings_reference()
    for row in (
        "| `batch.micro` | `auto` or integer, >= 1, < 2^31 | `auto` | ",
        "| `generator.eps` | number, > 0, <= 1 | `0.0627451` | ",
        "| `surrogate.weights` | `pretrained`, `package`, `fit`, `random`, `file:PATH` | ",
        "| `surrogate.fit.epochs` | integer, >= 1, < 2^31 | `20` | ",
        "| `target.fit.epochs` | integer, >= 1, < 2^31 | `30` | ",
        "| `evaluation.seeds` | list of integers, >= 0, < 2^32 | `[0, 1, 2]` | ",
        "| `datasets` | list of mappings | required | ",
        "| `batches.from` | `null` or integer, >= 1, < 2^31 | `null` | ",
    ):
        assert row in reference
