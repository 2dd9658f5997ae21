"""Instability against log2 B: a variance function, and whether it rises at both ends."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["seeds", "oscillation"]
Shape = Literal["both ends", "small batches", "large batches", "even", "inconclusive"]


@dataclass(frozen=True)
class InstabilityFit:
    """How one kind of instability varies with B. Batches are B, not log2 B.

    Attributes:
        kind: `seeds`: standard deviation across seeds; `oscillation`: within a run.
        shape: where runs are unstable, as far as shown: at `both ends`; at `small batches` or
            `large batches` alone (it falls, or rises, over the whole range); `even` if a clear
            trend or bend is excluded; else `inconclusive`.
        slope_low: slope of log variance per doubling of B at the smallest batch.
        slope_low_error: its standard error.
        slope_high: at the largest batch.
        slope_high_error: its standard error.
        both_ends_p: p-value of the test that it falls at the small and rises at the large end.
        trend_p: two-sided p-value of a linear trend.
        calmest: B of the fitted minimum, where the curve has one inside the range; else None.
        calmest_interval: its 95 % Fieller interval; ends may be 0 or inf where it is unbounded;
            None if there is no minimum.
        std: float64 [k], measured standard deviation at each size (NaN below two runs).
        at: float64 [m], B of the drawn curve.
        fitted: float64 [m], fitted standard deviation.
        low: float64 [m], lower end of its 95 % pointwise interval.
        high: float64 [m], upper end.
    """

    kind: Kind
    shape: Shape
    slope_low: float
    slope_low_error: float
    slope_high: float
    slope_high_error: float
    both_ends_p: float
    trend_p: float
    calmest: float | None
    calmest_interval: tuple[float, float] | None
    std: Floats
    at: Floats
    fitted: Floats
    low: Floats
    high: Floats
