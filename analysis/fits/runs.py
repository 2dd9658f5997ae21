"""Runs of a curve, and the means of its sizes with the effects of seeds removed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.table.table import Floats
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError

Integers = NDArray[np.intp]
Batches = NDArray[np.int64] | NDArray[np.float64]

MIN_SIZES = 3


@dataclass(frozen=True)
class Runs:
    """N successful runs at k sizes.

    Attributes:
        batches: [k], effective batches, ascending.
        size: integers [N], index of each run's size.
        seed: integers [N], index of each run's seed.
        values: float64 [N], what was measured, such as the accuracy.
    """

    batches: Batches
    size: Integers
    seed: Integers
    values: Floats

    @cached_property
    def x(self) -> Floats:
        """The sizes as log2 B, float64 [k]."""
        return np.log2(self.batches.astype(np.float64))

    @cached_property
    def at_size(self) -> Floats:
        """The runs of each size, 0 or 1, float64 [k, N]."""
        at_size: Floats = np.equal.outer(np.arange(len(self.batches)), self.size).astype(np.float64)
        return at_size

    @cached_property
    def of_seed(self) -> Floats:
        """The runs of each of the s seeds that occur more than once, 0 or 1, float64 [s, N]."""
        every = np.equal.outer(np.arange(self.seed.max() + 1), self.seed).astype(np.float64)
        shared: Floats = every[every.sum(1) > 1]
        return shared

    @cached_property
    def block(self) -> Integers:
        """The block [N] in which runs may change places: a seed, or 0, all that occur once."""
        return np.where(self.of_seed.any(0), self.seed + 1, 0)

    def patterns(self) -> Iterator[tuple[Integers, Integers]]:
        """Yield the sizes [m] that some seeds have in common, and their runs [seeds, m]."""
        found: dict[tuple[int, ...], list[Integers]] = {}
        for seed in np.unique(self.seed):
            runs = np.flatnonzero(self.seed == seed)
            found.setdefault(tuple(self.size[runs].tolist()), []).append(runs)
        for sizes, runs_of_seeds in found.items():
            yield np.array(sizes), np.array(runs_of_seeds)


def successful_runs(batches: NDArray[np.int64], values: Floats) -> Runs:
    """Return the runs of a curve that are neither missing nor failed.

    Args:
        batches: int64 [k], ascending.
        values: float64 [k, n], sizes by seeds; NaN where a run is missing or has failed.

    Raises:
        UserError: fewer than 3 sizes, or fewer than 2 runs at most of them.
    """
    counts = np.isfinite(values).sum(1)
    kept = counts > 0
    if kept.sum() < MIN_SIZES:
        raise UserError(
            f"{counted(int(kept.sum()), 'size')} with a successful run: a curve needs at least "
            f"{MIN_SIZES}"
        )
    if 2 * (counts[kept] < 2).sum() > kept.sum():
        raise UserError(
            "most sizes have fewer than 2 runs: run more seeds, to know the noise between them"
        )
    size, seed = np.nonzero(np.isfinite(values[kept]))
    return Runs(batches[kept], size, seed, values[kept][size, seed])


def testable_runs(batches: NDArray[np.int64], scales: Sequence[Floats]) -> list[Runs]:
    """Return the successful runs on each scale [k, n]; none if they are too few on any."""
    try:
        return [successful_runs(batches, values) for values in scales]
    except UserError:
        return []


def join_runs(samples: Sequence[Runs]) -> Runs:
    """Join the runs of several data sets, whose seeds differ; each seed's mean becomes zero.

    `batches` are from 1 to 2: 2 to the power of the place in the set's own range of log2 B, from 0
    to 1.
    """
    placed = [places(runs.batches) for runs in samples]
    batches = np.unique(np.concatenate(placed))
    offsets = np.cumsum([0, *(int(runs.block.max()) + 1 for runs in samples[:-1])])
    blocks = [runs.block + offset for runs, offset in zip(samples, offsets, strict=True)]
    seed = np.unique(np.concatenate(blocks), return_inverse=True)[1]
    size = [
        np.searchsorted(batches, place)[runs.size]
        for runs, place in zip(samples, placed, strict=True)
    ]
    values = np.concatenate([runs.values for runs in samples])
    centred = values - (np.bincount(seed, values) / np.bincount(seed))[seed]
    return Runs(batches, np.concatenate(size), seed, centred)


def places(batches: Batches) -> Floats:
    """Return 2 to the power of the place of each B in the range of log2 B, from 0 to 1."""
    x = np.log2(batches.astype(np.float64))
    places: Floats = 2 ** ((x - x[0]) / np.ptp(x)).round(6)
    return places


class TwoWay:
    """Least squares of sizes and seeds: linear maps of N runs.

    Seeds that occur once have no effect of their own. Effects of connected seeds sum to zero.

    Attributes:
        runs: the runs.
        to_means: float64 [k, N], to the mean at each size, effects of seeds removed.
        to_effects: float64 [s, N], to the effects of the s seeds that occur more than once.
        to_residuals: float64 [N, N], to the residuals.
        freedom: degrees of freedom of the residuals.

    Raises:
        UserError: too few runs share a seed.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        at_size, of_seed = runs.at_size, runs.of_seed
        average = at_size / at_size.sum(1, keepdims=True)
        within = np.eye(len(runs.size)) - at_size.T @ average
        seeds = within @ of_seed.T @ _contrast(of_seed @ at_size.T)
        self.to_effects: Floats = np.linalg.pinv(seeds, rcond=1e-9)
        projection = seeds @ self.to_effects
        self.to_means: Floats = average - average @ of_seed.T @ self.to_effects
        self.to_residuals: Floats = within - projection
        self.freedom = round(float(np.trace(self.to_residuals)))
        if self.freedom < 1:
            raise UserError("too few runs share a seed: its effect cannot be told from noise")

    @cached_property
    def means(self) -> Floats:
        """The mean at each size, float64 [k]."""
        means: Floats = self.to_means @ self.runs.values
        return means

    @cached_property
    def residuals(self) -> Floats:
        """The residual of each run, float64 [N]."""
        residuals: Floats = self.to_residuals @ self.runs.values
        return residuals


def _contrast(seen: Floats) -> Floats:
    """Return the map [s, s] that subtracts from effects their mean over seeds of common sizes.

    Without it, the level would depend on seeds that occur once.

    Args:
        seen: float64 [s, k], number of runs by seed and size.
    """
    laplacian = np.diag(seen.sum(1)) - seen @ (seen / seen.sum(0).clip(1)).T
    contrast: Floats = np.linalg.pinv(laplacian, rcond=1e-9, hermitian=True) @ laplacian
    return contrast
