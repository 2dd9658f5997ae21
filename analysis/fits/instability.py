"""Instability against log2 B: a variance function, and whether it rises at both ends.

Of n runs at one size with normal noise, the sample variance s^2 is Gamma with mean sigma^2 and
variance 2 sigma^4 / (n - 1). So a Gamma GLM (McCullagh and Nelder, 1989, chapter 8) with log link
and weights (n - 1) / 2 fits log sigma^2 = a + b x + c x^2, x = log2 B. Its scale is 1 by theory;
where Pearson's X^2 / (k - 3) over the k sizes is larger (heavy tails, runs that differ more than
their epochs do, a curve that is no parabola), that is taken instead. All intervals and p-values
are Student's with k - 3 degrees of freedom.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from statsmodels.genmod.families import Gamma
from statsmodels.genmod.families.links import Log
from statsmodels.genmod.generalized_linear_model import GLM

Floats = NDArray[np.float64]
Kind = Literal["seeds", "oscillation"]
Shape = Literal["both ends", "small batches", "large batches", "even", "inconclusive"]

ALPHA = 0.05
EVEN_RATIO = 3.0
"""`even` asks that standard deviations at two sizes surely differ by less than this factor."""
_MIN_SIZES = 4
_POINTS = 200
_NO_BEND = 1e-9


@dataclass(frozen=True)
class InstabilityFit:
    """How one kind of instability varies with B. Batches are B, not log2 B.

    Attributes:
        kind: `seeds`: standard deviation across seeds; `oscillation`: within a run.
        shape: where runs are unstable, as far as shown; the first of these that holds:
            `both ends`: `both_ends_p` < 5 %;
            `small batches` / `large batches`: `trend_p` < 5 %, it falls / rises on the whole;
            `even`: the 95 % interval of the fitted ratio of standard deviations between any two
            sizes lies within `EVEN_RATIO`, up or down;
            `inconclusive`: none of them.
        slope_low: slope of log variance per doubling of B at the smallest batch.
        slope_low_error: its standard error.
        slope_high: at the largest batch.
        slope_high_error: its standard error.
        both_ends_p: p-value of the test that it falls at the small and rises at the large end.
        trend_p: two-sided p-value of the mean slope over the range.
        calmest: B of the fitted minimum, where the curve has one inside the range; else None.
        calmest_interval: its 95 % Fieller interval; 0 and inf where it is unbounded; None if there
            is no minimum.
        std: float64 [k], measured standard deviation at each size (NaN below two runs; for
            `oscillation`, root mean square of the runs', NaN without a run).
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


@dataclass(frozen=True)
class _Glm:
    params: Floats
    covariance: Floats
    dof: int
    deviance: float

    @property
    def quantile(self) -> float:
        return float(student.ppf(1 - ALPHA / 2, self.dof))

    def contrast(self, rows: Floats) -> tuple[Floats, Floats]:
        """Estimates and standard errors [r] of the sums over parameters in `rows` [r, p]."""
        variance = np.einsum("rp,pq,rq->r", rows, self.covariance, rows)
        return rows @ self.params, np.sqrt(np.maximum(variance, 0))

    def opposite_p(self, rows: Floats) -> float:
        """P-value of: the first of two slopes is negative and the second positive."""
        estimate, error = self.contrast(rows)
        score = estimate / error
        return float(max(student.cdf(score[0], self.dof), student.sf(score[1], self.dof)))


def fit_instability(
    batches: NDArray[np.int64],
    values: Floats,
    kind: Kind,
    *,
    floor: float,
    tail_epochs: int = 0,
) -> InstabilityFit:
    """Fit the variance function and tell where runs are unstable.

    Oscillation is pooled by size: mean s^2 of the n runs, weights n (tail_epochs - 1) / 2, so that
    the scale takes in how much runs of one size differ.

    Instability at both ends is an intersection-union test, p the largest of its one-sided
    p-values. The slope b + 2 c x must be negative at the smallest and positive at the largest B
    (Lind and Mehlum, 2010, equation 6). A curve that falls and then stays level passes that too
    often, since a parabola must rise again (Simonsohn, 2018); so, where it passes at 5 %, two lines
    that meet at the best-fitting size must have slopes of opposite sign as well.

    Args:
        batches: int64 [k], effective batches, ascending.
        values: float64 [k, n]; `seeds`: each run's final accuracy; `oscillation`: each run's
            standard deviation (ddof 0) of accuracy over its last epochs. NaN: no such run.
        kind: which of the two.
        floor: > 0, the smallest variance that can be told from zero; smaller ones count as this.
        tail_epochs: over how many epochs `oscillation` was taken; below 2 nothing is measured.
    """
    runs, variance, weight = _variances(values, kind, tail_epochs)
    std = np.sqrt(variance)
    used = runs >= (2 if kind == "seeds" else 1)
    used &= np.isfinite(variance)
    if used.sum() < _MIN_SIZES:
        return _nothing(kind, batches, std)
    x = np.log2(batches[used].astype(np.float64))
    variance, weight = np.maximum(variance[used], floor), weight[used]
    middle = (x[0] + x[-1]) / 2
    x -= middle
    fit = _glm(_parabola(x), variance, weight)
    ends = np.array([[0, 1, 2 * x[0]], [0, 1, 2 * x[-1]]])
    slope, error = fit.contrast(ends)
    trend, trend_error = fit.contrast(ends.mean(axis=0, keepdims=True))
    trend_p = float(2 * student.sf(abs(trend[0]) / trend_error[0], fit.dof))
    both_ends_p = fit.opposite_p(ends)
    if both_ends_p < ALPHA:
        both_ends_p = max(both_ends_p, _two_lines_p(x, variance, weight))
    calmest, interval = _calmest(fit, x, middle)
    at = np.linspace(x[0], x[-1], _POINTS)
    log_variance, band = fit.contrast(_parabola(at))
    return InstabilityFit(
        kind=kind,
        shape=_shape(both_ends_p, float(trend[0]), trend_p, _largest_ratio(fit, x)),
        slope_low=float(slope[0]),
        slope_low_error=float(error[0]),
        slope_high=float(slope[1]),
        slope_high_error=float(error[1]),
        both_ends_p=both_ends_p,
        trend_p=trend_p,
        calmest=calmest,
        calmest_interval=interval,
        std=std,
        at=np.exp2(at + middle),
        fitted=np.exp(log_variance / 2),
        low=np.exp((log_variance - fit.quantile * band) / 2),
        high=np.exp((log_variance + fit.quantile * band) / 2),
    )


def fieller(
    numerator: float, denominator: float, covariance: Floats, quantile: float
) -> tuple[float, float]:
    """Interval of a ratio of two normal estimates (Fieller, 1954).

    It holds every r with (numerator - r denominator)^2 <= quantile^2 Var(numerator - r denominator)
    and is the whole line where the denominator cannot be told from zero.

    Args:
        numerator: its estimate.
        denominator: its estimate.
        covariance: float64 [2, 2], of the two.
        quantile: > 0, two-sided quantile of Student's t or the normal distribution.
    """
    square = quantile**2
    a = denominator**2 - square * covariance[1, 1]
    b = numerator * denominator - square * covariance[0, 1]
    c = numerator**2 - square * covariance[0, 0]
    if a <= 0:
        return -np.inf, np.inf
    half = np.sqrt(max(b**2 - a * c, 0.0))
    return float((b - half) / a), float((b + half) / a)


def _variances(
    values: Floats, kind: Kind, tail_epochs: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    present = np.isfinite(values)
    runs = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    if kind == "oscillation":
        if tail_epochs < 2:
            nothing = np.full(len(values), np.nan)
            return runs, nothing, nothing
        squares = np.where(present, values**2, 0).sum(axis=1) * tail_epochs / (tail_epochs - 1)
        return runs, _ratio(squares, runs), runs * (tail_epochs - 1) / 2
    deviations = np.where(present, values - _ratio(total, runs)[:, None], 0)
    return runs, _ratio((deviations**2).sum(axis=1), runs - 1), (runs - 1) / 2


def _ratio(total: Floats, count: NDArray[np.int64]) -> Floats:
    result: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return result


def _glm(design: Floats, variance: Floats, weight: Floats) -> _Glm:
    model = GLM(variance, design, family=Gamma(link=Log()), var_weights=weight)
    # Fisher scoring, the default, diverges where variances span decades; the likelihood is concave
    # in the parameters, and Newton's steps from here converge.
    start = np.linalg.lstsq(design, np.log(variance), rcond=None)[0]
    result = model.fit(start, method="newton", cov_type="eim", scale=1.0, disp=False)
    dof = len(variance) - design.shape[1]
    scale = max(1.0, float(result.pearson_chi2) / dof)
    return _Glm(result.params, scale * result.cov_params(), dof, float(result.deviance))


def _parabola(x: Floats) -> Floats:
    return np.column_stack([np.ones_like(x), x, x**2])


def _two_lines_p(x: Floats, variance: Floats, weight: Floats) -> float:
    fits = [
        _glm(
            np.column_stack([np.ones_like(x), np.minimum(x - knee, 0), np.maximum(x - knee, 0)]),
            variance,
            weight,
        )
        for knee in x[1:-1]
    ]
    best = min(fits, key=lambda fit: fit.deviance)
    return best.opposite_p(np.array([[0.0, 1, 0], [0, 0, 1]]))


def _largest_ratio(fit: _Glm, x: Floats) -> float:
    """Upper end of the 95 % interval of the largest ratio of standard deviations at two sizes."""
    first, second = np.triu_indices(len(x), 1)
    design = _parabola(x)
    estimate, error = fit.contrast(design[first] - design[second])
    return float(np.exp(np.max(np.abs(estimate) + fit.quantile * error) / 2))


def _shape(both_ends_p: float, trend: float, trend_p: float, largest_ratio: float) -> Shape:
    if both_ends_p < ALPHA:
        return "both ends"
    if trend_p < ALPHA:
        return "small batches" if trend < 0 else "large batches"
    return "even" if largest_ratio < EVEN_RATIO else "inconclusive"


def _calmest(
    fit: _Glm, x: Floats, middle: float
) -> tuple[float | None, tuple[float, float] | None]:
    _, b, c = fit.params
    if c < _NO_BEND or not x[0] <= -b / (2 * c) <= x[-1]:
        return None, None
    rows = np.array([[0.0, -1, 0], [0, 0, 2]])
    low, high = fieller(-b, 2 * c, rows @ fit.covariance @ rows.T, fit.quantile)
    with np.errstate(over="ignore"):
        calmest, first, last = np.exp2(middle + np.array([-b / (2 * c), low, high]))
    return float(calmest), (float(first), float(last))


def _nothing(kind: Kind, batches: NDArray[np.int64], std: Floats) -> InstabilityFit:
    nan = float("nan")
    empty = np.full(_POINTS, nan)
    return InstabilityFit(
        kind=kind,
        shape="inconclusive",
        slope_low=nan,
        slope_low_error=nan,
        slope_high=nan,
        slope_high_error=nan,
        both_ends_p=nan,
        trend_p=nan,
        calmest=None,
        calmest_interval=None,
        std=std,
        at=np.geomspace(float(batches[0]), float(batches[-1]), _POINTS),
        fitted=empty,
        low=empty,
        high=empty,
    )
