"""The metrics of a run: one JSON line for each optimizer step."""

from typing import NamedTuple


class Moments(NamedTuple):
    """Estimates of tr(Sigma) and |G|^2, one of each row; NaN where there is none."""

    trace: list[float]
    signal: list[float]
