"""Random data sets for the test of flatness (permutations) and for intervals (bootstrap)."""

import numpy as np

from analysis.fits.noise_model import Noise, Runs
from analysis.table.table import Floats


def shuffle_residuals(runs: Runs, noise: Noise, draws: int, random: np.random.Generator) -> Floats:
    """Return accuracies [draws, N] that a flat curve could have given.

    Residuals of the flat fit, in standard deviations, change sizes within their seed. Those of
    seeds that occur once change places among themselves.
    """
    weight = 1 / noise.std[runs.size]
    null = np.vstack([np.ones(len(weight)), runs.shared]).T * weight[:, None]
    white = runs.accuracy * weight
    white = white - null @ np.linalg.lstsq(null, white)[0]
    block = np.where(runs.shared.any(0), runs.seed + 1, 0)
    order = np.argsort(block + random.random((draws, len(block))), axis=1)
    values = np.empty((draws, len(block)))
    values[:, np.argsort(block, kind="stable")] = white[order]
    root = noise.log_std_root
    log_std_errors = random.normal(size=(draws, root.shape[1])) @ root.T
    return values * (noise.std * np.exp(log_std_errors))[:, runs.size]


def resample_runs(runs: Runs, noise: Noise, draws: int, random: np.random.Generator) -> Floats:
    """Return accuracies [draws, N]: the means plus deviations drawn within each size.

    A size with fewer than two known deviations draws from those of all sizes.
    """
    deviations = noise.deviations(runs)
    everywhere = deviations[np.isfinite(deviations)]
    means = noise.to_means @ runs.accuracy
    values = np.empty((draws, len(runs.size)))
    for size in range(len(runs.x)):
        here = runs.size == size
        pool = deviations[here & np.isfinite(deviations)]
        pool = pool if len(pool) > 1 else everywhere
        chosen = random.choice(pool - pool.mean(), (draws, here.sum()))
        values[:, here] = means[size] + noise.std[size] * chosen
    return values


def resample_level(runs: Runs, noise: Noise, draws: int, random: np.random.Generator) -> Floats:
    """Return mean effects [draws] of resampled seeds, by which the level of a curve is uncertain.

    They do not change the shape of the curve.
    """
    effects = noise.to_effects @ runs.accuracy
    count = len(effects)
    if count < 2:
        return np.zeros(draws)
    shifts: Floats = random.choice(effects, (draws, count)).mean(1) * np.sqrt(count / (count - 1))
    return shifts
