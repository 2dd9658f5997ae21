"""What every section of the configuration is: a model of its fields, and their common types."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.runtime.errors import CONTROL_CHARACTERS

Positive = Annotated[int, Field(ge=1, lt=2**31)]
STRENGTHS = {"low": 4 / 255, "medium": 8 / 255, "high": 16 / 255}


def _strength(value: Any) -> Any:
    """Turn a strength in words, or a fraction such as 8/255, into a number; leave numbers."""
    if isinstance(value, int | float) and 1 < value <= 255:
        raise PydanticCustomError(
            "strength", "must be at most 1, which is white; write 16/255 for 16 of 255"
        )
    if not isinstance(value, str):
        return value
    if value in STRENGTHS:
        return STRENGTHS[value]
    number, slash, divisor = value.partition("/")
    try:
        return float(number) / float(divisor if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise PydanticCustomError(
            "strength", "must be low, medium, high, a number, or a fraction such as 8/255"
        ) from None


def _not_empty(value: Any) -> Any:
    """Refuse the empty path that an unset variable of a shell leaves: it is the current folder."""
    if value == "":
        raise PydanticCustomError("empty_path", "must name a path; `.` is the current folder")
    return value


Bound = Annotated[float, Field(gt=0, le=1), BeforeValidator(_strength)]
"""Largest change of a pixel value."""
InputSize = Literal["data", "own"] | Annotated[int, Field(ge=8, le=4096)]
"""Height and width of a network's input: those of the data, its own, or pixels."""
UserPath = Annotated[
    Path, BeforeValidator(_not_empty), AfterValidator(lambda path: expand_path(str(path)))
]
"""A path as users write it: `~` is the home folder."""
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class SettingsOf:
    """A mark of a field: its mapping contains settings of `root`, nested as in a file."""

    root: type[BaseModel]


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    added_later: ClassVar[dict[str, Any]] = {}
    """Settings that older configurations lack, and the value at which all is as it was."""

    def answer(self) -> dict[str, Any]:
        """Return the settings that decide a result, for digests.

        A setting that was added later is left out at its old value, so that digests of older runs
        stay valid.
        """
        old = self.added_later
        content = self.model_dump(mode="json")
        return {key: value for key, value in content.items() if key not in old or value != old[key]}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_control_characters(cls, value: Any) -> Any:
        if isinstance(value, str) and CONTROL_CHARACTERS.search(value):
            raise PydanticCustomError(
                "control_character", "contains a control character; remove it"
            )
        return value
