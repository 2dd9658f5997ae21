"""The columns of the tidy table: types and ranges, checked in every row that is read."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError


def _known_or_nan(value: Any) -> Any:
    """Read an empty value as NaN."""
    return math.nan if value is None or value == "" else value


def _between(low: float, high: float, remedy: str = "") -> Callable[[float], float]:
    """Make a check of known values."""

    def check(value: float) -> float:
        if value < low:
            raise PydanticCustomError("range", f"must be at least {low:g}")
        if value > high:
            raise PydanticCustomError("range", f"must be at most {high:g}{remedy}")
        return value

    return check


_PER_CENT = "; it is a fraction, so divide per cent by 100"
_Number = Annotated[float, BeforeValidator(_known_or_nan)]
Fraction = Annotated[_Number, AfterValidator(_between(0, 1, _PER_CENT))]
"""In 0 ... 1; NaN if unknown."""
Amount = Annotated[_Number, AfterValidator(_between(0, math.inf))]
"""At least 0; NaN if unknown, inf if unbounded."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
Name = Annotated[str, Field(min_length=1)]


class Row(BaseModel):
    """A row of the table: one target of one run. In a failed run, numbers may be unknown.

    A table of another program may lack the columns that have a default.
    """

    dataset: Name
    arm: Name = "protected"
    effective_batch: Annotated[int, Field(ge=1, lt=2**31)]
    seed: Count
    target_seed: Count = 0
    budget: Literal["epochs", "steps"]
    lr_rule: Literal["none", "sqrt", "linear"] = "none"
    scope: Literal["cluster", "all"] = "cluster"
    settings: Text = ""
    optimizer_steps: Count
    learning_rate: Amount = math.nan
    images_seen: Count = 0
    full_batch: Count = 0
    final_accuracy: Fraction
    peak_accuracy: Fraction = math.nan
    tail_accuracy: Fraction = math.nan
    detrended_oscillation: Fraction = math.nan
    clean_accuracy: Fraction = math.nan
    noise_accuracy: Fraction = math.nan
    chance: Fraction
    test_images: Count
    tail_epochs: Count = 0
    images_per_second: Amount = math.nan
    peak_memory_mib: Amount = math.nan
    agreement: Fraction = math.nan
    purity: Fraction = math.nan
    critical_batch: Amount = math.nan
    critical_batch_low: Amount = math.nan
    critical_batch_high: Amount = math.nan
    failed: bool = False
    reason: Text = ""
    run: Name


_DTYPES = {int: "int64", float: "float64", bool: "bool"}
COLUMNS = {name: _DTYPES.get(field.annotation, "str") for name, field in Row.model_fields.items()}  # type: ignore[arg-type]
"""The pandas type of each column."""
OPTIONAL = {
    name: field.default for name, field in Row.model_fields.items() if not field.is_required()
}
"""What a column counts as if a table lacks it."""
ASSUMED = ("arm", "target_seed", "lr_rule", "scope", "failed")
"""The columns of these that count as known then."""
_NEEDED = ("final_accuracy", "chance")
"""Numbers that a run which has not failed must have."""


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with every value in its column's type.

    Raises:
        ValueError: the first value that is of another type or out of range; it names the line, as a
            CSV file with one line of names has it, and the column.
    """
    rows = []
    for line, given in enumerate(table.to_dict("records"), start=2):
        try:
            row = Row.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(_problem(line, str(first["loc"][0]), given, first["msg"])) from None
        for name in _NEEDED:
            if not row.failed and math.isnan(getattr(row, name)):
                raise ValueError(_problem(line, name, given, "must be known unless the run failed"))
        if not (row.failed or row.test_images):
            what = "must be at least 1 unless the run failed"
            raise ValueError(_problem(line, "test_images", given, what))
        if row.final_accuracy > row.peak_accuracy:
            what = f"must be at most peak_accuracy={row.peak_accuracy:g}"
            raise ValueError(_problem(line, "final_accuracy", given, what))
        rows.append(row.model_dump())
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _problem(line: int, column: str, row: Mapping[Any, Any], what: str) -> str:
    what = re.sub("^Input should ", "must ", what)
    what = re.sub("a valid boolean, .*", "true or false", what)
    if re.fullmatch(r"-?\d*,\d+", str(row[column])):
        what = "must have a decimal point, not a comma"
    return f"line {line}, {column}={row[column]!r}: {what}"
