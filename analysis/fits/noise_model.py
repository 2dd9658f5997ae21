"""Noise of runs: a standard deviation that varies smoothly with the size, and effects of seeds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

from analysis.fits.families import Integers
from analysis.table.table import Floats
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError

MIN_SIZES = 3
MIN_STD = 1e-3
MIN_VARIANCE_FRACTION = 0.1
"""Smallest variance at a size, as a fraction of the pooled one."""

PRIOR_FREEDOM = 2.0
"""Degrees of freedom with which the variance of a size is drawn to the pooled one."""


@dataclass(frozen=True)
class Runs:
    """N successful runs at k sizes.

    Attributes:
        batches: int64 [k], effective batches, ascending.
        x: float64 [k], log2 B.
        size: integers [N], index of each run's size.
        seed: integers [N], index of each run's seed.
        accuracy: float64 [N].
    """

    batches: NDArray[np.int64]
    x: Floats
    size: Integers
    seed: Integers
    accuracy: Floats

    @property
    def shared(self) -> Floats:
        """The runs of each of the s seeds that occur more than once, 0 or 1, float64 [s, N]."""
        of_seed = (np.arange(self.seed.max() + 1)[:, None] == self.seed).astype(np.float64)
        shared: Floats = of_seed[of_seed.sum(1) > 1]
        return shared


@dataclass(frozen=True)
class Noise:
    """Linear maps of N runs for given standard deviations at k sizes.

    Attributes:
        std: float64 [k], smoothed standard deviation of a run, apart from the effect of its seed.
        log_std_root: float64 [k, c], D where D D' is the covariance of the errors of log std.
        to_means: float64 [k, N], to the mean at each size, seed effects removed.
        to_effects: float64 [s, N], to the effects of the s seeds that occur more than once.
        to_residuals: float64 [N, N], to the residuals of the two-way fit, in standard deviations.
        whiten: float64 [k, k], W where W' W is the inverse covariance of the means.
        freedom: number of runs less that of the estimated seed effects.
    """

    std: Floats
    log_std_root: Floats
    to_means: Floats
    to_effects: Floats
    to_residuals: Floats
    whiten: Floats
    freedom: int

    def reduce(self, accuracies: Floats) -> tuple[Floats, Floats]:
        """Return means [d, k] and sums of squares around them [d] of d data sets [d, N].

        They are sufficient: the weighted sum of squares of the runs around a curve and their seed
        effects is that of the means around the curve, plus the sum around the means.
        """
        residuals = accuracies @ self.to_residuals.T
        return accuracies @ self.to_means.T, np.einsum("dn,dn->d", residuals, residuals)

    def deviations(self, runs: Runs) -> Floats:
        """Return residuals / sqrt(1 - leverage) in standard deviations, float64 [N].

        Without seed effects this is the inflation by sqrt(n / (n - 1)) for n runs at a size
        (modified residuals: Davison and Hinkley, 1997, chapter 6). NaN where a residual is zero
        whatever the run's accuracy.
        """
        free = np.diag(self.to_residuals) * self.std[runs.size]
        deviations: Floats = self.to_residuals @ runs.accuracy
        return deviations / np.sqrt(np.where(free > 1e-6, free, np.nan))


def successful_runs(batches: NDArray[np.int64], accuracy: Floats) -> Runs:
    """Return the runs of a curve that are neither missing nor failed.

    Args:
        batches: int64 [k], ascending.
        accuracy: float64 [k, n], sizes by seeds; NaN where a run is missing or has failed.

    Raises:
        UserError: fewer than 3 sizes, or fewer than 2 runs at most of them.
    """
    counts = np.isfinite(accuracy).sum(1)
    kept = counts > 0
    if kept.sum() < MIN_SIZES:
        raise UserError(
            f"{counted(int(kept.sum()), 'size')} with a successful run: a curve needs at least "
            f"{MIN_SIZES}"
        )
    if 2 * (counts[kept] < 2).sum() > kept.sum():
        raise UserError("most sizes have fewer than 2 runs: the noise between seeds is unknown")
    size, seed = np.nonzero(np.isfinite(accuracy[kept]))
    x = np.log2(batches[kept].astype(np.float64))
    return Runs(batches[kept], x, size, seed, accuracy[kept][size, seed])


def estimate_noise(runs: Runs) -> Noise:
    """Fit means and seed effects by least squares, with weights from a smoothed variance.

    The variance needs residuals, which need weights: two rounds, after one with equal weights.

    Raises:
        UserError: too few runs share a seed.
    """
    noise = _two_way(runs, np.ones(len(runs.x)), np.zeros((len(runs.x), 1)))
    if noise.freedom <= len(runs.x):
        raise UserError("too few runs share a seed: its effect cannot be told from noise")
    for _ in range(2):
        noise = _two_way(runs, *_smoothed_std(runs, noise))
    return noise


def _two_way(runs: Runs, std: Floats, log_std_root: Floats) -> Noise:
    """Fit sizes + seeds by weighted least squares; effects of connected seeds sum to zero."""
    weight = 1 / std[runs.size]
    at_size = (runs.size == np.arange(len(runs.x))[:, None]).astype(np.float64)
    of_seed = runs.shared
    average = at_size / at_size.sum(1, keepdims=True)
    within = np.eye(len(weight)) - at_size.T @ average  # weights are equal at a size
    seeds = within @ (of_seed * weight).T @ _contrast(of_seed @ at_size.T)
    inverse = np.linalg.pinv(seeds, rcond=1e-9)
    to_effects = inverse * weight
    to_means = average - average @ of_seed.T @ to_effects
    spread = to_means * std[runs.size]
    whiten = np.linalg.inv(np.linalg.cholesky(spread @ spread.T))
    projection = seeds @ inverse
    freedom = len(weight) - round(float(np.trace(projection)))
    to_residuals = (within - projection) * weight
    return Noise(std, log_std_root, to_means, to_effects, to_residuals, whiten, freedom)


def _contrast(seen: Floats) -> Floats:
    """Return the map [s, s] that subtracts from effects their mean over seeds of common sizes.

    Without it, the level would depend on seeds that occur once.

    Args:
        seen: float64 [s, k], number of runs by seed and size.
    """
    laplacian = np.diag(seen.sum(1)) - seen @ (seen / seen.sum(0).clip(1)).T
    contrast: Floats = np.linalg.pinv(laplacian, rcond=1e-9, hermitian=True) @ laplacian
    return contrast


def _smoothed_std(runs: Runs, noise: Noise) -> tuple[Floats, Floats]:
    """Return `std` and `log_std_root` of `Noise` from a Gamma regression with a log link.

    The log variance is a quadratic in x (linear for 3 sizes), fitted by Fisher scoring (McCullagh
    and Nelder, 1989, chapter 8) to variances that are first drawn to the pooled one with the weight
    of `PRIOR_FREEDOM`. The result is at least `MIN_VARIANCE_FRACTION` of the pooled variance.
    """
    at_size = np.arange(len(runs.x))[:, None] == runs.size
    freedom = at_size @ (np.diag(noise.to_residuals) * noise.std[runs.size])
    squares = at_size @ (noise.to_residuals @ runs.accuracy) ** 2 * noise.std**2
    pooled = max(float(squares.sum() / freedom.sum()), MIN_STD**2)
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
    log_std_root = basis @ np.linalg.inv(np.linalg.cholesky(information)).T / 2
    return np.sqrt(fitted.clip(MIN_VARIANCE_FRACTION * pooled)), log_std_root
