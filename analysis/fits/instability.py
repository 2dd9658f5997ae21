"""Instability against log2 B: a variance function, and whether it rises at both ends.

The sample variance s^2 of n runs with normal noise is Gamma with mean sigma^2 and variance
2 sigma^4 / (n - 1). A Gamma GLM (McCullagh and Nelder, 1989, chapter 8) with log link and weights
(n - 1) / 2 therefore fits log sigma^2 = a + b x + c x^2, x = log2 B. Its scale is 1 by theory.
Where Pearson's X^2 / (k - 3) over the k sizes is larger, that is used instead; causes are heavy
tails, runs that differ more than their epochs do, or a curve that is not a parabola. All intervals
and p-values use Student's t with k - 3 degrees of freedom.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from statsmodels.genmod.families import Gamma
from statsmodels.genmod.families.links import Log
from statsmodels.genmod.generalized_linear_model import GLM

from analysis.fits.intervals import ALPHA, fieller
from analysis.table.table import Floats

Kind = Literal["seeds", "oscillation"]
Shape = Literal["both ends", "small batches", "large batches", "even", "inconclusive"]

EVEN_RATIO = 3.0
"""`even` requires evidence that any two standard deviations differ by less than this factor."""

_MIN_SIZES = 4
_POINTS = 200
_MIN_CURVATURE = 1e-9
"""Smallest curvature of a parabola whose minimum is meaningful."""


@dataclass(frozen=True)
class InstabilityFit:
    """Fit of one kind of instability against B. Batches are B, not log2 B.

    Attributes:
        kind: `seeds`: standard deviation across seeds. `oscillation`: within a run.
        shape: where runs are shown to be unstable; the first of these that applies:
            `both ends`: `both_ends_p` < 5 %;
            `small batches`, `large batches`: `trend_p` < 5 %, and the mean slope is negative or
            positive;
            `even`: the 95 % interval of the fitted ratio of standard deviations between any two
            sizes lies within `EVEN_RATIO`, up or down;
            `inconclusive`: none of them.
        slope_low: slope of log variance per doubling of B at the smallest batch.
        slope_low_error: standard error of `slope_low`.
        slope_high: slope of log variance per doubling of B at the largest batch.
        slope_high_error: standard error of `slope_high`.
        both_ends_p: p-value of the test that it falls at the small end and rises at the large end.
        trend_p: two-sided p-value of the mean slope over the range.
        calmest: B of the fitted minimum, if there is one inside the range; else None.
        calmest_interval: 95 % Fieller interval of `calmest`, unbounded ends 0 and inf; None if
            there is no minimum.
        std: float64 [k], measured standard deviation at each size, NaN below two runs; for
            `oscillation` the root mean square over runs, NaN without a run.
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

    @property
    def is_measured(self) -> bool:
        """Whether the standard deviation at any size is known."""
        return bool(np.isfinite(self.std).any())


@dataclass(frozen=True)
class _GammaFit:
    """A fitted Gamma GLM of variances, its covariance scaled, with p parameters."""

    params: Floats
    covariance: Floats
    dof: int
    deviance: float

    @property
    def quantile(self) -> float:
        return float(student.ppf(1 - ALPHA / 2, self.dof))

    def contrast(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return estimates and standard errors [r] of weighted sums [r, p] of the parameters."""
        variance = np.einsum("rp,pq,rq->r", sums, self.covariance, sums)
        return sums @ self.params, np.sqrt(np.maximum(variance, 0))

    def opposite_p(self, slopes: Floats) -> float:
        """Return the p-value of the test that the first slope is negative, the second positive."""
        estimate, error = self.contrast(slopes)
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
    """Fit the variance function and find where runs are unstable.

    Oscillation is pooled by size: mean s^2 of the n runs, weights n (tail_epochs - 2) / 2. The
    scale then includes how much runs of one size differ.

    Instability at both ends is an intersection-union test; its p-value is the largest of the
    one-sided ones. The slope b + 2 c x must be negative at the smallest and positive at the largest
    B (Lind and Mehlum, 2010, equation 6). A curve that falls and then stays level passes that too
    often, because a parabola must rise again (Simonsohn, 2018). Where it passes at 5 %, two lines
    that meet at the best-fitting size must therefore have slopes of opposite sign as well.

    Args:
        batches: int64 [k], effective batches, ascending.
        values: float64 [k, n], NaN where a run is missing. `seeds`: each run's final accuracy.
            `oscillation`: each run's standard deviation of accuracy around a line over its last
            epochs.
        kind: kind of instability.
        floor: > 0, smallest variance that can be told from zero; smaller ones count as this.
        tail_epochs: number of epochs of an `oscillation`; below 3 nothing is measured.
    """
    runs, variance, weight = _variances(values, kind, tail_epochs)
    std = np.sqrt(variance)
    used = runs >= (2 if kind == "seeds" else 1)
    used &= np.isfinite(variance)
    if used.sum() < _MIN_SIZES:
        return _without_fit(kind, batches, std)
    x = np.log2(batches[used].astype(np.float64))
    variance, weight = np.maximum(variance[used], floor), weight[used]
    middle = (x[0] + x[-1]) / 2
    x -= middle
    fit = _fit_gamma(_parabola(x), variance, weight)
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


def _variances(
    values: Floats, kind: Kind, tail_epochs: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the number of runs, the sample variance and its weight at each size, [k] each."""
    present = np.isfinite(values)
    runs = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    if kind == "oscillation":
        if tail_epochs < 3:
            unknown = np.full(len(values), np.nan)
            return runs, unknown, unknown
        squares = np.where(present, values**2, 0).sum(axis=1)
        return runs, _ratio(squares, runs), runs * (tail_epochs - 2) / 2
    deviations = np.where(present, values - _ratio(total, runs)[:, None], 0)
    return runs, _ratio((deviations**2).sum(axis=1), runs - 1), (runs - 1) / 2


def _ratio(total: Floats, count: NDArray[np.int64]) -> Floats:
    result: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return result


def _fit_gamma(design: Floats, variance: Floats, weight: Floats) -> _GammaFit:
    model = GLM(variance, design, family=Gamma(link=Log()), var_weights=weight)
    # Fisher scoring, the default, diverges where variances span decades. The likelihood is concave
    # in the parameters, and Newton's method converges from this start.
    start = np.linalg.lstsq(design, np.log(variance), rcond=None)[0]
    result = model.fit(start, method="newton", cov_type="eim", scale=1.0, disp=False)
    dof = len(variance) - design.shape[1]
    scale = max(1.0, float(result.pearson_chi2) / dof)
    return _GammaFit(result.params, scale * result.cov_params(), dof, float(result.deviance))


def _parabola(x: Floats) -> Floats:
    return np.column_stack([np.ones_like(x), x, x**2])


def _two_lines_p(x: Floats, variance: Floats, weight: Floats) -> float:
    fits = [
        _fit_gamma(
            np.column_stack([np.ones_like(x), np.minimum(x - knee, 0), np.maximum(x - knee, 0)]),
            variance,
            weight,
        )
        for knee in x[1:-1]
    ]
    best = min(fits, key=lambda fit: fit.deviance)
    return best.opposite_p(np.array([[0.0, 1, 0], [0, 0, 1]]))


def _largest_ratio(fit: _GammaFit, x: Floats) -> float:
    """Return the largest ratio of standard deviations at two sizes that a 95 % interval allows."""
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
    fit: _GammaFit, x: Floats, middle: float
) -> tuple[float | None, tuple[float, float] | None]:
    """Return B of the minimum and its interval; None without a minimum inside the range."""
    _, b, c = fit.params
    if c < _MIN_CURVATURE or not x[0] <= -b / (2 * c) <= x[-1]:
        return None, None
    terms = np.array([[0.0, -1, 0], [0, 0, 2]])  # of the ratio -b / 2c
    low, high = fieller(-b, 2 * c, terms @ fit.covariance @ terms.T, fit.quantile)
    with np.errstate(over="ignore"):
        calmest, first, last = np.exp2(middle + np.array([-b / (2 * c), low, high]))
    return float(calmest), (float(first), float(last))


def _without_fit(kind: Kind, batches: NDArray[np.int64], std: Floats) -> InstabilityFit:
    """Return the measured deviations of a curve with too few sizes to be fitted."""
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
