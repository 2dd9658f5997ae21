"""Mean accuracy against log2 B: the family of curves, the optimum, and how certain they are.

Model: run (i, j) at size i under seed j has accuracy f(log2 B_i) + u_j + e_ij, var e_ij = s_i^2.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fits.families import FAMILIES, Comparison, Fits, Grid, refine
from analysis.fits.intervals import ALPHA, PERCENTILES
from analysis.fits.noise_model import Noise, Runs, estimate_noise, successful_runs
from analysis.fits.resampling import resample_level, resample_runs, shuffle_residuals
from analysis.table.table import Floats

Verdict = Literal["equivalent", "cannot tell", "optimum", "at least", "at most"]

MARGIN = 0.05
"""Difference in accuracy that does not matter."""

_POINTS = 200


@dataclass(frozen=True)
class FamilyFit:
    """One family fitted to a curve.

    Attributes:
        name: `flat`, `monotone`, `step`, `quadratic` or `hinge`.
        parameters: parameters, by name, of the formulas in `analysis.fits.families`; x = log2 B.
        errors: standard errors by name; NaN where there is none.
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
    """Fit of the mean accuracy of a curve. Batches are B, not log2 B.

    Attributes:
        families: all fitted families, the best by AICc first.
        verdict: `equivalent`: sizes are shown to differ by less than `margin`. `cannot tell`:
            neither that nor an effect of B is shown. With an effect of B, `optimum`: the best B
            lies inside the range of sizes; `at least`, `at most`: protection is best at the upper
            or lower edge, so the best B is at least or at most `optimum`.
        flat_p: p-value of the test of flatness.
        difference: largest difference between two sizes that the data allow: the 95 % upper bound
            of each pair, one-sided (two one-sided tests: Berger, 1982).
        lowest: size where the expected accuracy is lowest, over bootstrap draws and families.
        optimum: B of lowest mean accuracy; None if no effect of B is shown.
        interval: 95 % bootstrap interval of `optimum`; None likewise. An interval that reaches an
            edge does not exclude sizes beyond it.
        best: fitted mean accuracy at `optimum`; the mean of all runs if there is none.
        best_interval: 95 % interval of `best`.
        plateau: smallest and largest of the sizes around the best one whose fitted accuracy is
            within `margin` of `best`.
        margin: in accuracy.
        at: float64 [m], B of the drawn curve.
        mean: float64 [m], fitted mean accuracy.
        low: float64 [m], lower end of its 95 % pointwise interval.
        high: float64 [m], upper end.
    """

    families: tuple[FamilyFit, ...]
    verdict: Verdict
    flat_p: float
    difference: float
    lowest: int
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
    margin: float = MARGIN,
    seed: int = 0,
) -> MeanFit:
    """Fit every family to a curve, test it for flatness, and bound its optimum by bootstrap.

    An additive effect of each seed that occurs at several sizes is removed; the level stays the
    mean over seeds. Families are compared by AICc. The curve is flat if no two sizes can differ
    by `margin`, or if a permutation test does not reject it. Intervals are percentiles over
    bootstrap draws, in each of which the family is selected again.

    Args:
        batches: int64 [k], ascending.
        accuracy: float64 [k, n] in [0, 1]; NaN where a run is missing or has failed.
        draws: number of bootstrap draws, and of permutations.
        margin: difference in accuracy that does not matter.
        seed: seed of the random draws.

    Raises:
        UserError: fewer than 3 sizes, fewer than 2 runs at most sizes, or too few runs that share
            a seed.
    """
    runs = successful_runs(batches, accuracy)
    noise = estimate_noise(runs)
    random = np.random.default_rng(seed)
    grids = [Grid(f, runs.x, noise.whiten) for f in FAMILIES if f.count <= len(runs.x)]

    def compare(means: Floats, within: Floats) -> Comparison:
        return Comparison(grids, means, within, noise.freedom)

    measured = noise.reduce(runs.accuracy[None])
    real = compare(*measured)
    shuffled = compare(*noise.reduce(shuffle_residuals(runs, noise, draws, random)))
    flat_p = float(1 + np.sum(shuffled.gain >= real.gain - 1e-9)) / (1 + draws)
    resampled = noise.reduce(resample_runs(runs, noise, draws, random))
    shifts = resample_level(runs, noise, draws, random)
    difference = _largest_difference(measured[0][0], resampled[0])
    drawn = compare(*resampled)
    return _assemble_fit(runs, noise, real, drawn, shifts, flat_p, difference, margin)


def _assemble_fit(
    runs: Runs,
    noise: Noise,
    real: Comparison,
    drawn: Comparison,
    shifts: Floats,
    flat_p: float,
    difference: float,
    margin: float,
) -> MeanFit:
    is_equivalent = difference < margin
    flat = is_equivalent or flat_p >= ALPHA or bool(real.gain[0] <= 0)
    index = 0 if flat else int(real.chosen(flat=False)[0])
    families, refined = _refine_families(real, noise.to_means @ runs.accuracy, noise.whiten)
    family, fits = real.families[index], refined[index]

    def fitted(x: Floats) -> Floats:
        values: Floats = family.curve(x, fits.linear, fits.bend)[0].clip(0, 1)
        return values

    at = np.geomspace(runs.batches[0], runs.batches[-1], _POINTS)
    curves = drawn.curves(drawn.chosen(flat=flat), np.log2(at)) + shifts[:, None]
    low, high = np.percentile(curves, PERCENTILES, axis=0).clip(0, 1)
    place = family.lowest(fits.linear, fits.bend, runs.x)[0]
    chosen = np.full(len(shifts), 0) if flat else drawn.chosen(flat=False)
    places = drawn.lowest(chosen)
    bests = drawn.curves(chosen, places[:, None])[:, 0] + shifts
    best = float(fitted(np.array([place]))[0])
    optimum = float(2**place)
    expected = drawn.curves(drawn.chosen(flat=True), runs.x).mean(0)
    return MeanFit(
        families=tuple(families),
        verdict=_verdict(is_equivalent, flat, fitted(runs.x[[0, -1]]), best),
        flat_p=flat_p,
        difference=difference,
        lowest=int(runs.batches[expected.argmin()]),
        optimum=None if flat else optimum,
        interval=None if flat else _bootstrap_interval(2**places, optimum),
        best=best,
        best_interval=_bootstrap_interval(bests.clip(0, 1), best),
        plateau=_plateau(runs.batches, fitted(runs.x), best + margin),
        margin=margin,
        at=at,
        mean=fitted(np.log2(at)),
        low=low,
        high=high,
    )


def _refine_families(
    real: Comparison, means: Floats, whiten: Floats
) -> tuple[list[FamilyFit], list[Fits]]:
    """Return the refined families, the best first, and their fits in the order of `real`."""
    weights = np.exp((real.aicc.min() - real.aicc[:, 0]) / 2)
    weights /= weights.sum()
    families, refined = [], []
    for family, start, aicc, weight in zip(
        real.families, real.fits, real.aicc[:, 0], weights, strict=True
    ):
        parameters, errors = refine(family, real.x, means, whiten, start)
        linear = np.array([[parameters[name] for name in family.linear]])
        bend = np.array([parameters[family.bend] if family.bend else 0.0])
        refined.append(Fits(start.rss, linear, bend))
        families.append(FamilyFit(family.name, parameters, errors, float(aicc), float(weight)))
    return sorted(families, key=lambda fit: fit.aicc), refined


def _bootstrap_interval(draws: Floats, estimate: float) -> tuple[float, float]:
    """Return percentiles of the draws, widened if they miss the estimate."""
    low, high = np.percentile(draws, PERCENTILES)
    return min(float(low), estimate), max(float(high), estimate)


def _largest_difference(means: Floats, resampled: Floats) -> float:
    """Return the largest upper bound of a difference of two means [k], from their draws [d, k]."""
    errors = resampled - means
    pairs = errors[:, :, None] - errors[:, None, :]
    bounds = np.subtract.outer(means, means) + np.quantile(pairs, 1 - ALPHA, axis=0)
    return float(bounds.max())


def _verdict(is_equivalent: bool, flat: bool, edges: Floats, best: float) -> Verdict:
    if flat:
        return "equivalent" if is_equivalent else "cannot tell"
    if edges[1] <= best + 1e-9:
        return "at least"
    return "at most" if edges[0] <= best + 1e-9 else "optimum"


def _plateau(batches: NDArray[np.int64], fitted: Floats, limit: float) -> tuple[int, int]:
    """Return the smallest and largest size up to which the curve stays within the limit."""
    low = high = int(fitted.argmin())
    while low > 0 and fitted[low - 1] <= limit:
        low -= 1
    while high < len(fitted) - 1 and fitted[high + 1] <= limit:
        high += 1
    return int(batches[low]), int(batches[high])
