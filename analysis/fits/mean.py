"""Mean accuracy against log2 B: which family of curves, which optimum, how sure.

Model: run (i, j) at size i under seed j has accuracy f(log2 B_i) + u_j + e_ij, var e_ij = s_i^2.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

from analysis.fits.families import FAMILIES, Comparison, Fits, Floats, Grid, Integers, refine
from bigbatch_ue.runtime.errors import UserError

Verdict = Literal["flat", "optimum", "at least", "at most"]

POINTS = 200
LEVEL = 0.05
ENDS = (100 * LEVEL / 2, 100 * (1 - LEVEL / 2))
SMALLEST_STD = 1e-3
SMALLEST_SHARE = 0.1
PRIOR_FREEDOM = 2.0


@dataclass(frozen=True)
class FamilyFit:
    """One family fitted to a curve.

    Attributes:
        name: `flat`, `monotone`, `step`, `quadratic` or `hinge`.
        parameters: by name, of the formulas in `analysis.fits.families`, where x = log2 B.
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
        families: all that were fitted, the best by AICc first.
        verdict: `flat`: no effect of B is shown; `optimum`: the best B lies inside the sizes;
            `at least` / `at most`: protection is best at the upper / lower edge, so the best B is
            at least / at most `optimum`.
        flat_p: p-value of the test of flatness.
        optimum: B of lowest mean accuracy; None if flat.
        interval: 95 % interval of it by bootstrap, which does not exclude what lies beyond an edge
            that it reaches; None if flat.
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


def fit_mean(
    batches: NDArray[np.int64],
    accuracy: Floats,
    *,
    draws: int = 1000,
    margin: float = 0.02,
    seed: int = 0,
) -> MeanFit:
    """Fit every family to a curve, test it for flatness, and bound its optimum by bootstrap.

    An additive effect of each seed seen at several sizes is removed; the level stays that of the
    mean over seeds. Families are compared by AICc. The curve is `flat` unless a permutation test
    says otherwise. Intervals are percentiles over `draws` of resampled seeds, the family selected
    anew in each.

    Args:
        batches: int64 [k], ascending.
        accuracy: float64 [k, n] in [0, 1]; NaN where a run is missing or has failed.
        draws: bootstrap draws, and permutations.
        margin: of the plateau, in accuracy.
        seed: of the random draws.

    Raises:
        UserError: fewer than 3 sizes, fewer than 2 runs at most sizes, or nothing to tell noise by.
    """
    runs = _observed(batches, accuracy)
    noise = _noise(runs)
    random = np.random.default_rng(seed)
    grids = [Grid(f, runs.x, noise.whiten) for f in FAMILIES if f.count <= len(runs.x)]

    def compare(values: Floats) -> Comparison:
        return Comparison(grids, *noise.reduce(values), noise.freedom)

    real = compare(runs.value[None])
    shuffled = compare(_shuffled(runs, noise, draws, random))
    flat_p = float(1 + np.sum(shuffled.gain >= real.gain - 1e-9)) / (1 + draws)
    drawn = compare(_resampled(runs, noise, draws, random))
    shifts = _shifts(runs, noise, draws, random)
    return _assemble_fit(runs, noise, real, drawn, shifts, flat_p, margin)


@dataclass(frozen=True)
class _Runs:
    """Observed runs: sizes [k] and their x; of each of N runs its size, seed and accuracy."""

    batches: NDArray[np.int64]
    x: Floats
    row: Integers
    column: Integers
    value: Floats

    @property
    def shared(self) -> Floats:
        """float64 [s, N], which runs belong to each of the s seeds that are seen at several."""
        of_seed = (np.arange(self.column.max() + 1)[:, None] == self.column).astype(np.float64)
        shared: Floats = of_seed[of_seed.sum(1) > 1]
        return shared


def _observed(batches: NDArray[np.int64], accuracy: Floats) -> _Runs:
    counts = np.isfinite(accuracy).sum(1)
    kept = counts > 0
    if kept.sum() < 3:
        raise UserError(f"{kept.sum()} size(s) with a run that succeeded: a curve needs at least 3")
    if 2 * (counts[kept] < 2).sum() > kept.sum():
        raise UserError("fewer than 2 runs at most sizes: the noise between seeds is unknown")
    row, column = np.nonzero(np.isfinite(accuracy[kept]))
    x = np.log2(batches[kept].astype(np.float64))
    return _Runs(batches[kept], x, row, column, accuracy[kept][row, column])


# -- noise ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Noise:
    """Linear maps of the runs, for given standard deviations.

    Attributes:
        std: float64 [k], smoothed standard deviation of a run beside the effect of its seed.
        doubt: float64 [k, c], D where D D' is the covariance of the errors of log std.
        means: float64 [k, N], to the mean at each size, seed effects removed.
        effects: float64 [s, N], to the effects of the s seeds that are seen at several sizes.
        residual: float64 [N, N], to the residuals of the two-way fit, in standard deviations.
        whiten: float64 [k, k], W where W' W is the inverse covariance of the means.
        freedom: runs less the seed effects that had to be estimated.
    """

    std: Floats
    doubt: Floats
    means: Floats
    effects: Floats
    residual: Floats
    whiten: Floats
    freedom: int

    def reduce(self, values: Floats) -> tuple[Floats, Floats]:
        """Means [d, k] and sums of squares around them [d] of d data sets [d, N].

        They are sufficient: the weighted sum of squares of the runs around a curve and their seed
        effects is that of the means around the curve, plus the sum around the means.
        """
        left = values @ self.residual.T
        return values @ self.means.T, np.einsum("dn,dn->d", left, left)

    def deviations(self, runs: _Runs) -> Floats:
        """float64 [N], residuals / sqrt(1 - leverage), in standard deviations; NaN where unknown.

        Without seed effects this is the inflation by sqrt(n / (n - 1)) for n runs at a size
        (modified residuals: Davison and Hinkley, 1997, chapter 6).
        """
        free = np.diag(self.residual) * self.std[runs.row]
        deviations: Floats = self.residual @ runs.value
        return deviations / np.sqrt(np.where(free > 1e-6, free, np.nan))


def _noise(runs: _Runs) -> _Noise:
    """Least squares with a smoothed variance, which in turn needs residuals: two rounds."""
    noise = _two_way(runs, np.ones(len(runs.x)), np.zeros((len(runs.x), 1)))
    if noise.freedom <= len(runs.x):
        raise UserError("seeds are shared by too few runs to tell their effect from noise")
    for _ in range(2):
        noise = _two_way(runs, *_smoothed(runs, noise))
    return noise


def _two_way(runs: _Runs, std: Floats, doubt: Floats) -> _Noise:
    """Weighted least squares of sizes + seeds, the effects of connected seeds summing to zero."""
    weight = 1 / std[runs.row]
    at_size = (runs.row == np.arange(len(runs.x))[:, None]).astype(np.float64)
    of_seed = runs.shared
    average = at_size / at_size.sum(1, keepdims=True)
    within = np.eye(len(weight)) - at_size.T @ average  # weights are equal at a size
    seeds = within @ (of_seed * weight).T @ _contrast(of_seed @ at_size.T)
    inverse = np.linalg.pinv(seeds, rcond=1e-9)
    effects = inverse * weight
    means = average - average @ of_seed.T @ effects
    spread = means * std[runs.row]
    whiten = np.linalg.inv(np.linalg.cholesky(spread @ spread.T))
    taken = seeds @ inverse
    freedom = len(weight) - round(float(np.trace(taken)))
    return _Noise(std, doubt, means, effects, (within - taken) * weight, whiten, freedom)


def _contrast(seen: Floats) -> Floats:
    """float64 [s, s], takes from effects their mean over the seeds linked by common sizes.

    Without it the level would hang on seeds seen once. `seen`: float64 [s, k], runs by seed, size.
    """
    laplacian = np.diag(seen.sum(1)) - seen @ (seen / seen.sum(0).clip(1)).T
    contrast: Floats = np.linalg.pinv(laplacian, rcond=1e-9, hermitian=True) @ laplacian
    return contrast


def _smoothed(runs: _Runs, noise: _Noise) -> tuple[Floats, Floats]:
    """`std` and `doubt` of `_Noise`, from a Gamma regression of the variances with a log link.

    The log variance is a quadratic in x (linear for 3 sizes), fitted by Fisher scoring (McCullagh
    and Nelder, 1989, chapter 8) to variances that are first drawn to the pooled one with the
    weight of PRIOR_FREEDOM degrees of freedom. At least SMALLEST_SHARE of the pooled variance.
    """
    size = np.arange(len(runs.x))[:, None] == runs.row
    freedom = size @ (np.diag(noise.residual) * noise.std[runs.row])
    squares = size @ (noise.residual @ runs.value) ** 2 * noise.std**2
    pooled = max(float(squares.sum() / freedom.sum()), SMALLEST_STD**2)
    variance = (squares + PRIOR_FREEDOM * pooled) / (freedom + PRIOR_FREEDOM)
    weight = np.sqrt(freedom + PRIOR_FREEDOM)
    spread = (runs.x - runs.x[0]) / (runs.x[-1] - runs.x[0])
    basis = np.stack([spread**power for power in range(min(3, len(runs.x) - 1))], 1)
    project = basis @ np.linalg.pinv(basis * weight[:, None]) * weight
    fitted = target = np.log(variance)
    for _ in range(10):
        fitted = np.exp(project @ target)
        target = np.log(fitted) + variance / fitted - 1
    # The log of a variance from d degrees of freedom has variance trigamma(d / 2).
    information = basis.T @ (basis / polygamma(1, freedom.clip(0.5) / 2)[:, None])
    doubt = basis @ np.linalg.inv(np.linalg.cholesky(information)).T / 2
    return np.sqrt(fitted.clip(SMALLEST_SHARE * pooled)), doubt


# -- draws ---------------------------------------------------------------------------------------


def _shuffled(runs: _Runs, noise: _Noise, draws: int, random: np.random.Generator) -> Floats:
    """float64 [draws, N], what a flat curve could have given.

    Residuals of the flat fit, in standard deviations, change sizes within their seed; those of
    seeds seen at one size only, among themselves.
    """
    weight = 1 / noise.std[runs.row]
    null = np.vstack([np.ones(len(weight)), runs.shared]).T * weight[:, None]
    white = runs.value * weight
    white = white - null @ np.linalg.lstsq(null, white)[0]
    block = np.where(runs.shared.any(0), runs.column + 1, 0)
    order = np.argsort(block + random.random((draws, len(block))), axis=1)
    values = np.empty((draws, len(block)))
    values[:, np.argsort(block, kind="stable")] = white[order]
    doubt = random.normal(size=(draws, noise.doubt.shape[1])) @ noise.doubt.T
    return values * (noise.std * np.exp(doubt))[:, runs.row]


def _resampled(runs: _Runs, noise: _Noise, draws: int, random: np.random.Generator) -> Floats:
    """float64 [draws, N], the means plus deviations drawn within each size.

    A size with fewer than two known deviations draws from those of all sizes.
    """
    deviations = noise.deviations(runs)
    everywhere = deviations[np.isfinite(deviations)]
    means = noise.means @ runs.value
    values = np.empty((draws, len(runs.row)))
    for size in range(len(runs.x)):
        here = runs.row == size
        pool = deviations[here & np.isfinite(deviations)]
        pool = pool if len(pool) > 1 else everywhere
        chosen = random.choice(pool - pool.mean(), (draws, here.sum()))
        values[:, here] = means[size] + noise.std[size] * chosen
    return values


def _shifts(runs: _Runs, noise: _Noise, draws: int, random: np.random.Generator) -> Floats:
    """float64 [draws], mean effect of seeds drawn anew: how sure the level is, not the shape."""
    effects = noise.effects @ runs.value
    count = len(effects)
    if count < 2:
        return np.zeros(draws)
    shifts: Floats = random.choice(effects, (draws, count)).mean(1) * np.sqrt(count / (count - 1))
    return shifts


# -- report --------------------------------------------------------------------------------------


def _assemble_fit(
    runs: _Runs,
    noise: _Noise,
    real: Comparison,
    drawn: Comparison,
    shifts: Floats,
    flat_p: float,
    margin: float,
) -> MeanFit:
    flat = flat_p >= LEVEL or bool(real.gain[0] <= 0)
    index = 0 if flat else int(real.chosen(flat=False)[0])
    described, refined = _described(real, noise.means @ runs.value, noise.whiten)
    family, fits = real.families[index], refined[index]

    def fitted(x: Floats) -> Floats:
        values: Floats = family.curve(x, fits.linear, fits.bend)[0].clip(0, 1)
        return values

    at = np.geomspace(runs.batches[0], runs.batches[-1], POINTS)
    curves = drawn.curves(drawn.chosen(flat=flat), np.log2(at)) + shifts[:, None]
    low, high = np.percentile(curves, ENDS, axis=0).clip(0, 1)
    place = family.lowest(fits.linear, fits.bend, runs.x)[0]
    chosen = np.full(len(shifts), 0) if flat else drawn.chosen(flat=False)
    places = drawn.lowest(chosen)
    bests = drawn.curves(chosen, places[:, None])[:, 0] + shifts
    best = float(fitted(np.array([place]))[0])
    optimum = float(2**place)
    return MeanFit(
        families=tuple(described),
        verdict="flat" if flat else _verdict(fitted(runs.x[[0, -1]]), best),
        flat_p=flat_p,
        optimum=None if flat else optimum,
        interval=None if flat else _interval(2**places, optimum),
        best=best,
        best_interval=_interval(bests.clip(0, 1), best),
        plateau=_plateau(runs.batches, fitted(runs.x), best + margin),
        margin=margin,
        at=at,
        mean=fitted(np.log2(at)),
        low=low,
        high=high,
    )


def _described(
    real: Comparison, means: Floats, whiten: Floats
) -> tuple[list[FamilyFit], list[Fits]]:
    """Families with refined parameters, the best first; and the fits, in the order of `real`."""
    weights = np.exp((real.aicc.min() - real.aicc[:, 0]) / 2)
    weights /= weights.sum()
    described, refined = [], []
    for family, start, aicc, weight in zip(
        real.families, real.fits, real.aicc[:, 0], weights, strict=True
    ):
        parameters, errors = refine(family, real.x, means, whiten, start)
        linear = np.array([[parameters[name] for name in family.linear]])
        bend = np.array([parameters[family.bend] if family.bend else 0.0])
        refined.append(Fits(start.rss, linear, bend))
        described.append(FamilyFit(family.name, parameters, errors, float(aicc), float(weight)))
    return sorted(described, key=lambda fit: fit.aicc), refined


def _interval(values: Floats, estimate: float) -> tuple[float, float]:
    """Percentiles of the draws, widened where they miss the estimate."""
    low, high = np.percentile(values, ENDS)
    return min(float(low), estimate), max(float(high), estimate)


def _verdict(edges: Floats, best: float) -> Verdict:
    if edges[1] <= best + 1e-9:
        return "at least"
    return "at most" if edges[0] <= best + 1e-9 else "optimum"


def _plateau(batches: NDArray[np.int64], fitted: Floats, limit: float) -> tuple[int, int]:
    """The sizes around the lowest one up to which the curve stays below the limit."""
    low = high = int(fitted.argmin())
    while low > 0 and fitted[low - 1] <= limit:
        low -= 1
    while high < len(fitted) - 1 and fitted[high + 1] <= limit:
        high += 1
    return int(batches[low]), int(batches[high])
