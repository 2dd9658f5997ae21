"""Variance components: how much seeds, runs and targets vary, and which of them to buy next.

Model: the target t of the run of seed j at batch size b has accuracy mean_b + s_j + g_bj + e_bjt,
with independent parts. s_j is the same at every b: surrogate and clusters, which depend on the seed
only. g_bj is that of a run: its generators, and what of its seed interacts with b. e_bjt is the
target's own training. What a target's seed does alike in all runs is taken for e_bjt, although it
would not average out over runs that share the target's seed.

The means of the runs' targets give a sum of squares of seeds, adjusted for sizes, and one of the
rest; the targets give one within runs. They are equated with their expectations, as in method 3 of
Henderson (1953): without bias, whatever is missing. Intervals are generalised ones (Weerahandi,
1993): the sums of squares are divided by draws from chi-squared distributions, and the equations
solved again. With few seeds, the percentiles of a parametric bootstrap are too narrow, and
Satterthwaite's interval fails near zero.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fits.intervals import PERCENTILES
from analysis.table.table import Floats
from bigbatch_ue.reporting.words import counted, number, percent
from bigbatch_ue.runtime.errors import UserError

_DRAWS = 20_000
_LARGEST = 0.5
"""Largest standard deviation of a number in 0 ... 1 (Popoviciu, 1935)."""
_ROUNDING = 1e-9
"""Standard deviations and singular values up to this are rounding errors."""


@dataclass(frozen=True)
class Spread:
    """Standard deviation of a part, with its 95 % interval, as fractions in [0, 0.5]."""

    std: float
    low: float
    high: float

    @property
    def variance(self) -> float:
        """The squared standard deviation."""
        return self.std**2


@dataclass(frozen=True)
class Components:
    """Parts of the variance of accuracy between targets at one batch size.

    Attributes:
        seed: what all runs of a seed share: surrogate and clusters; with `same_seed` also what that
            seed does alike in the targets.
        run: what the targets of a run share beyond that: its generators. None if no run has two
            targets.
        target: the target's own training; None if no run has two targets.
        run_and_target: `run` and `target` together: a run with one target.
        sizes: number of batch sizes.
        seeds: number of seeds of runs.
        runs: number of runs.
        targets: number of targets of all runs.
        targets_per_run: harmonic mean of the runs' numbers of targets.
        same_seed: whether each run has one target, with the seed of the run.
    """

    seed: Spread
    run: Spread | None
    target: Spread | None
    run_and_target: Spread
    sizes: int
    seeds: int
    runs: int
    targets: int
    targets_per_run: float
    same_seed: bool

    def shares(self) -> str:
        """Say in a sentence what share of the variance is which part."""
        total = self.seed.variance + self.run_and_target.variance
        if total == 0:
            return "All targets of one B are equally accurate."
        shared = f"Of the variance between networks at one B, about {_share(self.seed, total)} is"
        if self.run is None or self.target is None:
            also = ", and what the target's seed does in all of them" if self.same_seed else ""
            return (
                f"{shared} common to all runs of a seed (surrogate and clusters{also}), and "
                f"{_share(self.run_and_target, total)} a run's own (generators and the target's "
                "training, which one target for each run cannot tell apart)."
            )
        return (
            f"{shared} common to all runs of a seed (surrogate and clusters), "
            f"{_share(self.run, total)} a run's own (generators) and "
            f"{_share(self.target, total)} a target's own (its training)."
        )

    def next_seeds(self, run_cost: float = 0.0) -> str:
        """Say in a sentence whether more targets for each run or more runs should be bought next.

        The mean at one size of n runs with m targets each has variance (s2 + g2 + e2 / m) / n. One
        more target for each run is compared with n / (run_cost + m) new runs of new seeds and m
        targets, which cost as much. Runs are better while run_cost < m (m + 1) (s2 + g2) / e2.

        Args:
            run_cost: cost of learning the perturbations of a run, >= 0, in trainings of a target; 0
                counts targets only.
        """
        if self.seed.std == self.run_and_target.std == 0:
            return "All targets of one B are equally accurate: more seeds would not help."
        per_run = self.targets_per_run
        by_runs = 1 - np.sqrt((run_cost + per_run) / (run_cost + per_run + 1))
        if self.run is None or self.target is None:
            return self._next_seeds_of_single_targets(by_runs, run_cost)
        shared = self.seed.variance + self.run.variance
        own = self.target.variance
        by_targets = 1 - np.sqrt((shared + own / (per_run + 1)) / (shared + own / per_run))
        comparison = (
            "One more target for each run would shrink the interval of the mean at one B by "
            f"{percent(by_targets, 0)} %, new seeds {_at_cost(run_cost)} by {percent(by_runs, 0)} %"
        )
        if percent(by_targets, 0) == percent(by_runs, 0):
            return f"{comparison}: buy either."
        if own == 0:
            return f"{comparison}: buy seeds."
        even = per_run * (per_run + 1) * shared / own
        bought, limit = ("seeds", "more") if run_cost < even else ("targets", "less")
        return (
            f"{comparison}: buy {bought}, unless learning the perturbations of a run costs {limit} "
            f"than {number(even)} trainings of a target."
        )

    def _next_seeds_of_single_targets(self, by_runs: float, run_cost: float) -> str:
        """Compare with the most that a second target could do, if all of g + e were e."""
        seed, rest = self.seed.variance, self.run_and_target.variance
        at_most = 1 - np.sqrt((seed + rest / 2) / (seed + rest))
        advice = (
            "buy seeds"
            if by_runs >= at_most
            else "buy a second target for some runs, which tells how much it would"
        )
        return (
            "A second target for each run would shrink the interval of the mean at one B by at "
            f"most {percent(at_most, 0)} %, new seeds {_at_cost(run_cost)} by "
            f"{percent(by_runs, 0)} %: {advice}. The difference of two sizes is taken within "
            f"seeds, where a second target would do at most {percent(1 - np.sqrt(0.5), 0)} %."
        )


def _at_cost(run_cost: float) -> str:
    return "for the same money" if run_cost else "with as many trainings of targets"


@dataclass(frozen=True)
class _Squares:
    """Sums of squares, and what is expected of them.

    Attributes:
        sums: float64 [c], of seeds, runs and, if it is known, targets.
        freedom: float64 [c], degrees of freedom.
        expected: float64 [c, c], expectations as weighted sums of the variances of seeds, runs and
            targets; of seeds and the other two together if no run has two targets.
    """

    sums: Floats
    freedom: Floats
    expected: Floats

    def variances(self) -> Floats:
        """Return the estimated variances, float64 [c]."""
        return self._solved(self.sums)

    def draws(self) -> Floats:
        """Return draws of the variances, float64 [c, draws], whose quantiles are intervals."""
        random = np.random.default_rng(0)
        chi_squared = random.chisquare(self.freedom, (_DRAWS, len(self.sums)))
        return self._solved((self.sums * self.freedom / chi_squared).T)

    def _solved(self, sums: Floats) -> Floats:
        """Return the variances of sums of squares, at least 0."""
        variances = np.linalg.solve(self.expected, sums)
        solved: Floats = np.where(variances > _ROUNDING**2, variances, 0)
        return solved


def fit_components(rows: pd.DataFrame) -> Components:
    """Estimate the variance components of one curve.

    Args:
        rows: rows of a table, as `read_table` returns it, that differ only in `effective_batch`,
            `seed` and `target_seed`. Those of failed runs are left out.

    Raises:
        UserError: too few seeds have runs at the same sizes.
    """
    targets = rows[~rows["failed"]]
    accuracy = targets.groupby(["effective_batch", "seed"])["final_accuracy"]
    runs = accuracy.agg(["mean", "var", "count"]).reset_index()
    squares = _squares(runs)
    variances, draws = squares.variances(), squares.draws()
    parts = [_spread(own, drawn) for own, drawn in zip(variances, draws, strict=True)]
    apart = len(parts) == 3
    return Components(
        seed=parts[0],
        run=parts[1] if apart else None,
        target=parts[2] if apart else None,
        run_and_target=_spread(variances[1:].sum(), draws[1:].sum(0)),
        sizes=runs["effective_batch"].nunique(),
        seeds=runs["seed"].nunique(),
        runs=len(runs),
        targets=len(targets),
        targets_per_run=float(1 / (1 / runs["count"]).mean()),
        same_seed=not apart and bool((targets["target_seed"] == targets["seed"]).all()),
    )


def _squares(runs: pd.DataFrame) -> _Squares:
    """Return the sums of squares of runs: mean, variance and count of each one's targets."""
    count = runs["count"].to_numpy(np.float64)
    sizes, seeds = (
        pd.get_dummies(runs[axis]).to_numpy(np.float64) for axis in ("effective_batch", "seed")
    )
    of_sizes = _basis(sizes)
    of_seeds = _basis(seeds - of_sizes @ (of_sizes.T @ seeds))
    weight = np.stack([(of_seeds**2).sum(1), 1 - (of_sizes**2).sum(1) - (of_seeds**2).sum(1)])
    freedom = np.append(weight.sum(1).round(), (count - 1).sum())
    if freedom[0] < 1 or freedom[1] < 1:
        raise UserError(
            f"{counted(len(runs), 'successful run')} of {counted(seeds.shape[1], 'seed')} at "
            f"{counted(sizes.shape[1], 'size')}: too few to tell seeds from runs; run two "
            "seeds or more at the same two sizes or more"
        )
    mean = runs["mean"].to_numpy(np.float64)
    rest = mean - of_sizes @ (of_sizes.T @ mean)
    by_seed = of_seeds.T @ rest
    rest = rest - of_seeds @ by_seed
    within = (runs["var"].fillna(0) * (count - 1)).sum()
    expected = np.zeros((3, 3))
    expected[0, 0] = ((of_seeds.T @ seeds) ** 2).sum()
    expected[:2, 1] = weight.sum(1)
    expected[:2, 2] = weight @ (1 / count)
    expected[2, 2] = freedom[2]
    known = slice(3 if freedom[2] else 2)
    sums = np.array([by_seed @ by_seed, rest @ rest, within])
    return _Squares(sums[known], freedom[known], expected[known, known])


def _basis(columns: Floats) -> Floats:
    """Return an orthonormal basis of some columns, which may be dependent or all zero."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    basis: Floats = left[:, values > _ROUNDING]
    return basis


def _spread(variance: float, draws: Floats) -> Spread:
    """Return a standard deviation and its interval.

    The upper end is that of the positive draws: it stays above 0 where most draws are 0.
    """
    positive = draws[draws > 0]
    low = np.percentile(draws, PERCENTILES[0])
    high = np.percentile(positive, PERCENTILES[1]) if positive.size else 0.0
    std, first, last = np.sqrt([variance, low, high]).clip(max=_LARGEST)
    return Spread(float(std), float(first), float(last))


def _share(part: Spread, total: float) -> str:
    return f"{percent(part.variance / total, 0)} %"
