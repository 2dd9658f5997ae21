"""Batch size or number of steps? Two budgets of the same sweep tell them apart."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth
from scipy.stats import f as fisher
from scipy.stats import t as student
from statsmodels.regression.linear_model import OLS

from analysis.fits.instability import fieller
from analysis.table.table import Curve
from bigbatch_ue.reporting.statistics import half_width
from bigbatch_ue.reporting.words import p_value
from bigbatch_ue.runtime.errors import UserError

Floats = NDArray[np.float64]
Interval = tuple[float, float]

ALPHA = 0.05
_MIN_SIZES = 3
_MIN_SEEDS = 2


@dataclass(frozen=True)
class Separation:
    """How much of the effect of B at equal epochs is the effect of fewer optimizer steps.

    Attributes:
        dataset: and the rest of what the two curves share, in words.
        batches: int64 [k], effective batches that both budgets have.
        smallest: smallest B compared.
        largest: largest B compared.
        change_epochs: change of accuracy from the smallest to the largest B along each seed's
            straight line, at equal epochs; mean over seeds.
        change_epochs_interval: its 95 % t interval.
        change_steps: the same at equal steps.
        change_steps_interval: its 95 % t interval.
        difference_p: p-value of the t-test that the two are equal: paired, or Welch's where the
            budgets share fewer than two seeds.
        share: (change_epochs - change_steps) / change_epochs, the part that goes with fewer steps;
            without meaning where `share_interval` is None.
        share_interval: its 95 % Fieller interval; None where it is unbounded.
        batch_p: p-value of the partial F-test of B, given steps and seeds, over both budgets; NaN
            where the sizes cannot tell B from steps.
        steps_p: p-value of the partial F-test of steps, given B and seeds.
        statement: all this in two sentences.
    """

    dataset: str
    batches: NDArray[np.int64]
    smallest: int
    largest: int
    change_epochs: float
    change_epochs_interval: Interval
    change_steps: float
    change_steps_interval: Interval
    difference_p: float
    share: float
    share_interval: Interval | None
    batch_p: float
    steps_p: float
    statement: str


@dataclass(frozen=True)
class _Changes:
    """Changes of accuracy at equal epochs and at equal steps, [n] each; pairs, or two samples."""

    epochs: Floats
    steps: Floats
    paired: bool

    @property
    def means(self) -> tuple[float, float]:
        return float(self.epochs.mean()), float(self.steps.mean())

    @property
    def covariance(self) -> Floats:
        """float64 [2, 2], of the two means."""
        if self.paired:
            return np.atleast_2d(np.cov(self.epochs, self.steps)) / len(self.epochs)
        samples = (self.epochs, self.steps)
        return np.diag([float(np.var(one, ddof=1)) / len(one) for one in samples])

    @property
    def dof(self) -> float:
        """Degrees of freedom of the difference (Welch, 1947, where the seeds are no pairs)."""
        variances = np.diag(self.covariance)
        if self.paired or not variances.any():
            return float(min(len(self.epochs), len(self.steps)) - 1)
        spare = np.array([len(self.epochs), len(self.steps)]) - 1
        return float(variances.sum() ** 2 / (variances**2 / spare).sum())


def separate(epochs: Curve, steps: Curve) -> Separation:
    """Tell the effect of B from that of fewer steps, T, which falls as B rises at equal epochs.

    Sizes that both budgets have are compared. Seeds that both have are pairs, and their lines go
    through the cells that neither budget lacks; with fewer than two such seeds the budgets count
    as two samples. A seed counts if its cells are at least three and span half the range of log2 B.
    The F-tests (Draper and Smith, 1998, section 6.1) are of log2 B and its square, given a level of
    accuracy for every seed and every T, and of log2 T and its square, given one for every seed and
    every B. Levels, not powers, of what is given: powers that miss a sharp bend in T would pass the
    rest on to B. They take runs as independent but for the level of their seed.

    Args:
        epochs: the sweep at equal epochs.
        steps: the sweep at equal optimizer steps.

    Raises:
        UserError: fewer than three common sizes, or fewer than two seeds in a budget.
    """
    batches = np.intersect1d(_measured(epochs), _measured(steps))
    if len(batches) < _MIN_SIZES:
        raise UserError(
            f"{epochs.title}: {len(batches)} effective batch(es) common to both budgets; "
            f"{_MIN_SIZES} are needed to tell batch size from steps"
        )
    changes = _changes(epochs, steps, batches)
    if min(len(changes.epochs), len(changes.steps)) < _MIN_SEEDS:
        raise UserError(
            f"{epochs.title}: fewer than {_MIN_SEEDS} seeds with enough sizes under both budgets; "
            "batch size cannot be told from steps"
        )
    change_epochs, change_steps = changes.means
    batch_p, steps_p = _partial_f(epochs, steps, batches)
    result = Separation(
        dataset=epochs.title.replace(f": equal {epochs.budget}", ""),
        batches=batches,
        smallest=int(batches[0]),
        largest=int(batches[-1]),
        change_epochs=change_epochs,
        change_epochs_interval=_interval(changes.epochs),
        change_steps=change_steps,
        change_steps_interval=_interval(changes.steps),
        difference_p=_difference_p(changes),
        share=(change_epochs - change_steps) / change_epochs if change_epochs else float("nan"),
        share_interval=_share_interval(changes),
        batch_p=batch_p,
        steps_p=steps_p,
        statement="",
    )
    return replace(result, statement=f"{_lines_say(result, changes.paired)} {_f_say(result)}")


def _measured(curve: Curve) -> NDArray[np.int64]:
    return curve.batches[np.isfinite(curve.accuracy).any(axis=1)]


def _rows(curve: Curve, batches: NDArray[np.int64]) -> Floats:
    return curve.accuracy[np.searchsorted(curve.batches, batches)]


def _changes(epochs: Curve, steps: Curve, batches: NDArray[np.int64]) -> _Changes:
    x = np.log2(batches.astype(np.float64))
    first, second = _rows(epochs, batches), _rows(steps, batches)
    _, left, right = np.intersect1d(epochs.seeds, steps.seeds, return_indices=True)
    both = first[:, left] + second[:, right]  # NaN where either is
    one, other = (
        _line_changes(x, np.where(np.isfinite(both), accuracy, np.nan))
        for accuracy in (first[:, left], second[:, right])
    )
    if len(one) >= _MIN_SEEDS:
        return _Changes(one, other, paired=True)
    return _Changes(_line_changes(x, first), _line_changes(x, second), paired=False)


def _line_changes(x: Floats, accuracy: Floats) -> Floats:
    """Slope of each usable column's least-squares line over x, times the range of x."""
    changes = []
    for column in accuracy.T:
        there = np.isfinite(column)
        if there.sum() >= _MIN_SIZES and np.ptp(x[there]) >= np.ptp(x) / 2:
            centred = x[there] - x[there].mean()
            changes.append(centred @ column[there] / (centred @ centred) * np.ptp(x))
    return np.array(changes)


def _interval(sample: Floats) -> Interval:
    half = half_width(float(sample.std(ddof=1)), len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def _difference_p(changes: _Changes) -> float:
    contrast = np.array([1, -1])
    difference = abs(float(contrast @ changes.means))
    error = float(contrast @ changes.covariance @ contrast) ** 0.5
    if error == 0:
        return float(difference == 0)
    return float(2 * student.sf(difference / error, changes.dof))


def _share_interval(changes: _Changes) -> Interval | None:
    change_epochs, change_steps = changes.means
    rows = np.array([[1, -1], [1, 0]])  # the difference, and the change at equal epochs
    covariance = rows @ changes.covariance @ rows.T
    quantile = float(student.ppf(1 - ALPHA / 2, changes.dof))
    interval = fieller(change_epochs - change_steps, change_epochs, covariance, quantile)
    return interval if np.isfinite(interval[0]) else None


def _partial_f(epochs: Curve, steps: Curve, batches: NDArray[np.int64]) -> tuple[float, float]:
    """P-values of B given steps and of steps given B; a run that stands in both counts once."""
    cells = {
        (int(seed), batch, int(curve.steps[row]), float(curve.accuracy[row, column]))
        for curve in (epochs, steps)
        for row, batch in enumerate(curve.batches.tolist())
        for column, seed in enumerate(curve.seeds)
        if batch in batches and np.isfinite(curve.accuracy[row, column])
    }
    seed, batch, step, accuracy = np.array(sorted(cells), dtype=np.float64).T
    batch_p, steps_p = (
        _extra_p(accuracy, np.hstack([_levels(seed), _levels(given)]), _powers(np.log2(tested)))
        for given, tested in ((step, batch), (batch, step))
    )
    return batch_p, steps_p


def _extra_p(accuracy: Floats, given: Floats, tested: Floats) -> float:
    # A seed's level may be the sum of others' (seeds not shared): a basis has full rank.
    reduced, full = (
        OLS(accuracy, orth(design)).fit() for design in (given, np.hstack([given, tested]))
    )
    extra = reduced.df_resid - full.df_resid
    if extra <= 0 or full.df_resid <= 0:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (reduced.ssr - full.ssr) / extra / (full.ssr / full.df_resid)
    return float(fisher.sf(statistic, extra, full.df_resid))


def _levels(values: Floats) -> Floats:
    levels: Floats = np.equal.outer(values, np.unique(values)).astype(np.float64)
    return levels


def _powers(values: Floats) -> Floats:
    centred = values - values.mean()
    return np.column_stack([centred, centred**2])


def _lines_say(result: Separation, paired: bool) -> str:
    kind = "paired difference" if paired else "difference"
    said = (
        f"From B = {result.smallest} to {result.largest}, accuracy changes by "
        f"{_points(result.change_epochs, result.change_epochs_interval)} at equal epochs and by "
        f"{_points(result.change_steps, result.change_steps_interval)} at equal optimizer steps "
        f"({kind} {p_value(result.difference_p)})"
    )
    low, high = result.change_epochs_interval
    if low <= 0 <= high:
        return f"{said}: at equal epochs no change is shown, so a share of it has no meaning."
    if result.share_interval is None:
        return f"{said}: what share goes with fewer steps cannot be bounded."
    share, low, high = (round(100 * part) for part in (result.share, *result.share_interval))
    told = f"{share} % [{low}, {high}]"
    if result.difference_p >= ALPHA:
        return f"{said}: the share that goes with fewer steps, {told}, may be nil."
    return f"{said}: {told} of the effect of B goes with fewer steps."


def _f_say(result: Separation) -> str:
    return (
        "In F-tests over all runs, which see bends too and take runs as independent, "
        f"the number of steps {_matters(result.steps_p)} at given B, "
        f"and B {_matters(result.batch_p)} at given steps."
    )


def _points(change: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * change:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


def _matters(p: float) -> str:
    if np.isnan(p):
        return "cannot be tested"
    return f"{'matters' if p < ALPHA else 'is not shown to matter'} ({p_value(p)})"
