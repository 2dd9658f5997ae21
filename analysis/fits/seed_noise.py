"""Noise of runs: random draws of what it may be, given the runs.

Model: run j at size i deviates from the curve by u_j + s_j(x_i) + e_ij, where x = log2 B. The level
u_j of a seed is removed by least squares. Beyond it, seeds may have curves s_j of their own, with
covariance t^2 K between sizes. The variance v_i of e_ij may differ between sizes.

The prior: v_i is inverse chi-square around a common value, with an unknown number of degrees of
freedom; t^2 is zero, or has any ratio to the common value; K is a straight line, a smooth curve, or
a first-order autoregression. Candidates are drawn near the posterior and resampled by importance
(Rubin, 1987).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln

from analysis.fits.runs import Integers, TwoWay
from analysis.table.table import Floats

MIN_STD = 1e-3
"""Smallest standard deviation of a run."""

_FREEDOMS = (1, 2, 4, 8, 16, 32)
"""Degrees of freedom with which variances may be drawn to their common value, equally likely."""
_LEVELS_ONLY = 0.4
"""Prior probability that seeds differ by their level only."""
_RATIOS = (0.05, 10.0)
"""Range of t^2 to the common variance, log-uniform."""
_CANDIDATES = 8
"""Candidates for each draw."""


@dataclass(frozen=True)
class NoiseDraws:
    """What the noise of the means at k sizes may be, in d equally likely draws.

    Attributes:
        covariance: float64 [d, k, k], of the errors of the means.
        errors: float64 [d, k], an error of the means from each draw's covariance.
        level: float64 [d], error that all means share, as the seeds that were run are a sample.
        std: float64 [k], median standard deviation of a run, apart from the level of its seed.
    """

    covariance: Floats
    errors: Floats
    level: Floats
    std: Floats


def draw_noise(fit: TwoWay, draws: int, random: np.random.Generator) -> NoiseDraws:
    """Draw what the noise may be from its posterior distribution.

    Args:
        fit: the runs, and their residuals.
        draws: number of draws, d.
        random: source of the draws.
    """
    kernels = _kernels(fit.runs.x)
    variance, curves, kind = _posterior(fit, kernels, draws, random)
    covariance = _covariance_of_means(fit, variance, curves, kind, kernels)
    root = np.linalg.cholesky(covariance + _ridge(covariance))
    errors = (root @ random.normal(size=(*root.shape[:2], 1)))[..., 0]
    own = curves[:, None] * np.diagonal(kernels, axis1=1, axis2=2)[kind]
    std = np.sqrt(np.median(variance + own, axis=0))
    return NoiseDraws(covariance, errors, _level(fit, draws, random), std)


def _kernels(x: Floats) -> Floats:
    """Return covariances of a seed's curve between sizes, float64 [3, k, k], mean variance 1."""
    z = (x - x.mean()) / np.ptp(x)
    line = np.outer(z, z) / (z @ z / len(z))
    distance = np.abs(np.subtract.outer(z, z))
    return np.stack([line, np.exp(-((distance / 0.5) ** 2) / 2), np.exp(-distance / 0.3)])


def _posterior(
    fit: TwoWay, kernels: Floats, draws: int, random: np.random.Generator
) -> tuple[Floats, Floats, Integers]:
    """Return draws of the variances [d, k], of t^2 [d], and of the kind of seeds' curves [d]."""
    runs, count = fit.runs, draws * _CANDIDATES
    squares = runs.at_size @ fit.residuals**2
    freedom = runs.at_size @ np.diag(fit.to_residuals)
    common = _common_variance(squares, freedom)
    low, high = np.log(_RATIOS)
    ratio = np.exp(random.uniform(low, high, count))
    ratio[random.random(count) < _LEVELS_ONLY] = 0
    kind = random.integers(len(kernels), size=count)
    k = len(runs.x)
    centre = np.eye(k) - 1 / k
    left = np.diagonal(centre @ kernels @ centre, axis1=1, axis2=2)[kind]
    share = 1 / (1 + ratio[:, None] * left)  # of the residuals' variance, that of single runs
    prior = random.choice(_FREEDOMS, count)[:, None].astype(np.float64)
    prior_sum, sums = prior * common * share, (squares + prior * common) * share
    variance = sums / random.chisquare(prior + freedom, size=(count, k))
    curves = ratio * common * share.mean(1)
    weight = (
        _log_likelihood(fit, variance, curves, kernels[kind])
        + _log_density(variance, prior, prior_sum)
        - _log_density(variance, prior + freedom, sums)
    )
    probability = np.exp(weight - weight.max())
    chosen = random.choice(count, draws, p=probability / probability.sum())
    return variance[chosen], curves[chosen], kind[chosen]


def _common_variance(squares: Floats, freedom: Floats) -> float:
    """Return the common variance of the sizes, which a single noisy size does not move much.

    It is their geometric mean, corrected for the bias of a logarithm (Smyth, 2004, section 6.2).
    """
    known = freedom > 0.5
    half = freedom[known] / 2
    log = np.log(np.maximum(squares[known] / freedom[known], MIN_STD**2))
    common = np.average(log - digamma(half) + np.log(half), weights=half)
    return max(float(np.exp(common)), MIN_STD**2)


def _log_density(variance: Floats, freedom: Floats, sums: Floats) -> Floats:
    """Return the log density [c] of `sums` / chi-square of variances [c, k], up to a constant."""
    half = freedom / 2
    log = half * np.log(sums / 2) - gammaln(half)
    density: Floats = (log - (half + 1) * np.log(variance) - sums / (2 * variance)).sum(1)
    return density


def _log_likelihood(fit: TwoWay, variance: Floats, curves: Floats, kernels: Floats) -> Floats:
    """Return the log likelihood [c] of the residuals within seeds, for c candidates.

    The means took some degrees of freedom from the seeds, alike from all of them.
    """
    patterns = list(fit.runs.patterns())
    total = sum(len(runs) * max(len(sizes) - 1, 1) for sizes, runs in patterns)
    likelihood = np.zeros(len(curves))
    for sizes, runs in patterns:
        m = len(sizes)
        contrasts = np.linalg.svd(np.eye(m) - 1 / m)[2][: m - 1] if m > 1 else np.eye(1)
        own = kernels[:, sizes[:, None], sizes] * (curves * (m > 1))[:, None, None]
        within = contrasts @ (own + variance[:, sizes, None] * np.eye(m)) @ contrasts.T
        root = np.linalg.cholesky(within + _ridge(within))
        white = np.linalg.solve(root, (fit.residuals[runs] @ contrasts.T).T)
        log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        likelihood -= (white**2).sum((1, 2)) / 2 + len(runs) * fit.freedom / total * log_root
    return likelihood


def _covariance_of_means(
    fit: TwoWay, variance: Floats, curves: Floats, kind: Integers, kernels: Floats
) -> Floats:
    """Return the covariance [d, k, k] of the errors of the means."""
    runs, to_means = fit.runs, fit.to_means
    single = np.einsum("in,kn,jn->kij", to_means, runs.at_size, to_means)
    same = np.equal.outer(runs.seed, runs.seed)
    of_curves = to_means @ (kernels[:, runs.size[:, None], runs.size] * same) @ to_means.T
    covariance: Floats = np.tensordot(variance, single, 1)
    covariance += curves[:, None, None] * of_curves[kind]
    return covariance


def _ridge(matrices: Floats) -> Floats:
    """Return a small multiple of the identity for each matrix [..., k, k], against rounding."""
    k = matrices.shape[-1]
    scale = np.trace(matrices, axis1=-2, axis2=-1)[..., None, None] / k
    ridge: Floats = 1e-7 * scale * np.eye(k)
    return ridge


def _level(fit: TwoWay, draws: int, random: np.random.Generator) -> Floats:
    """Return errors [d] of the mean of the seeds' levels: Student's t of their spread."""
    effects = fit.to_effects @ fit.runs.values
    count = len(effects)
    if count < 2:
        return np.zeros(draws)
    errors: Floats = random.standard_t(count - 1, draws) * effects.std(ddof=1) / np.sqrt(count)
    return errors
