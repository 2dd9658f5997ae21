"""The curve between and through noisy means: a Gaussian process in log2 B."""

from collections.abc import Sequence

import numpy as np

from analysis.table.table import Floats

LENGTHS = (0.05, 0.15, 0.5)
"""Lengths over which curves may bend, in units of the range of log2 B."""
_AMPLITUDES = (0.25, 8.0)
"""Range of the standard deviation of the bends, in units of the error of a mean."""
_WEIGHED = 500
"""Number of covariances that are weighed by how well they explain the means."""


def draw_curves(
    x: Floats,
    means: Floats,
    covariance: Floats,
    at: Floats,
    random: np.random.Generator,
    lengths: Sequence[float] = LENGTHS,
) -> tuple[Floats, Floats]:
    """Draw curves that the means may have come from.

    The prior is a level, plus a Gaussian process with a Matern kernel of smoothness 3/2
    (Rasmussen and Williams, 2006, equations 2.42 and 4.17), which may have kinks.
    Its length and amplitude are unknown. Draws are made by correcting draws of the prior (Wilson et
    al., 2020, "Efficiently sampling functions from Gaussian process posteriors", equation 11).

    Args:
        x: float64 [k], sizes as log2 B, ascending.
        means: float64 [k].
        covariance: float64 [d, k, k], equally likely covariances of the means' errors.
        at: float64 [m], log2 B where the curves are wanted.
        random: source of the draws.
        lengths: lengths over which the curves may bend, in units of the range of x.

    Returns:
        The curves at the sizes, float64 [d, k], and at `at`, float64 [d, m].
    """
    draws, k = covariance.shape[:2]
    z = (np.concatenate([x, at]) - x[0]) / np.ptp(x)
    level = float(means.mean())
    unit = float(np.sqrt(np.trace(covariance, axis1=1, axis2=2) / k).mean())
    priors = _priors(z, lengths, unit, float(np.ptp(means)))
    weighed = covariance[:_WEIGHED]
    log = np.stack([_log_likelihood(one[:k, :k] + weighed, means - level) for one in priors])
    weight = np.exp(log - log.max()).ravel()
    chosen = random.choice(weight.size, draws, p=weight / weight.sum())
    which, noise = np.divmod(chosen, len(weighed))
    curves = np.empty((draws, len(z)))
    for index in np.unique(which):
        own, prior = which == index, priors[index]
        root = np.linalg.cholesky(prior + 1e-8 * np.eye(len(z)))
        drawn = random.normal(size=(own.sum(), len(z))) @ root.T
        errors = covariance[noise[own]]
        roots = np.linalg.cholesky(errors + 1e-12 * np.eye(k))
        measured = drawn[:, :k] + (roots @ random.normal(size=(own.sum(), k, 1)))[..., 0]
        missed = np.linalg.solve(prior[:k, :k] + errors, (means - level - measured)[..., None])
        curves[own] = drawn + missed[..., 0] @ prior[:k]
    curves += level
    return curves[:, :k], curves[:, k:]


def _priors(
    z: Floats, lengths: Sequence[float], unit: float, range_of_means: float
) -> list[Floats]:
    """Return the prior covariance [n, n] at `z`, for each length and amplitude.

    Bends may be as large as `range_of_means`, however small the error `unit` of a mean is.
    """
    distance = np.sqrt(3) * np.abs(np.subtract.outer(z, z))
    smallest, largest = _AMPLITUDES
    amplitudes = np.geomspace(smallest * unit, max(largest * unit, range_of_means), 6)
    return [
        1 + amplitude**2 * (1 + distance / one) * np.exp(-distance / one)
        for one in lengths
        for amplitude in amplitudes
    ]


def _log_likelihood(covariance: Floats, deviations: Floats) -> Floats:
    """Return the log density [d] of deviations [k] under each covariance [d, k, k]."""
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, np.broadcast_to(deviations[:, None], (*root.shape[:2], 1)))
    log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
    log: Floats = -((white**2).sum((1, 2)) / 2) - log_root
    return log
