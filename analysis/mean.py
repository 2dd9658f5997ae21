"""Mean accuracy against log2 B: which family of curves, which optimum, how sure."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["flat", "optimum", "at least", "at most"]


@dataclass(frozen=True)
class FamilyFit:
    """One family fitted to a curve.

    Attributes:
        name: `flat`, `monotone`, `step`, `quadratic` or `hinge`.
        parameters: by name.
        errors: standard errors by name, NaN where there is none.
        aicc: corrected information criterion (Hurvich and Tsai, 1989).
        weight: Akaike weight in [0, 1] among the families.
    """

    name: str
    parameters: dict[str, float]
    errors: dict[str, float]
    aicc: float
    weight: float


@dataclass(frozen=True)
class MeanFit:
    """What the mean accuracy of a curve shows. Batches are B, not log2 B.

    Attributes:
        families: all that were fitted, the best first.
        verdict: `flat`: no effect of B is shown; `optimum`: the best B lies inside the sizes;
            `at least` / `at most`: protection is best at the upper / lower edge, so the best B is
            at least / at most `optimum`.
        flat_p: p-value of the test of flatness.
        optimum: B of lowest mean accuracy; None if flat.
        interval: 95 % interval of it by bootstrap; None if flat.
        best: fitted mean accuracy there (the mean of all if flat).
        best_interval: 95 % interval of it.
        plateau: smallest and largest real batch whose fitted accuracy is within `margin` of the
            best, connected to it.
        margin: in accuracy.
        at: float64 [m], B of the drawn curve.
        mean: float64 [m], fitted mean accuracy.
        low: float64 [m], lower end of its 95 % pointwise interval.
        high: float64 [m], upper end.
    """

    families: tuple[FamilyFit, ...]
    verdict: Verdict
    flat_p: float
    optimum: float | None
    interval: tuple[float, float] | None
    best: float
    best_interval: tuple[float, float]
    plateau: tuple[int, int]
    margin: float
    at: Floats
    mean: Floats
    low: Floats
    high: Floats
