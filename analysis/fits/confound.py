"""Batch size or number of steps: two budgets of the same sweep tell their effects apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from analysis.defaults import DRAWS
from analysis.fits.contrasts import SmoothTest
from analysis.fits.intervals import ALPHA, fieller
from analysis.fits.runs import TwoWay, successful_runs
from analysis.fits.seed_noise import draw_noise
from analysis.table.table import Curve, Floats
from bigbatch_ue.reporting.statistics import half_width
from bigbatch_ue.reporting.words import counted, p_value
from bigbatch_ue.runtime.errors import UserError

Interval = tuple[float, float]

_MIN_SIZES = 3
_MIN_SEEDS = 2


@dataclass(frozen=True)
class Separation:
    """How much of the effect of B at equal epochs is the effect of fewer optimizer steps.

    Attributes:
        dataset: data set, and whatever else the two curves have in common, in words.
        lr_rule: `none`, `sqrt` or `linear`; unless `none`, the learning rate changes with B.
        batches: int64 [k], effective batches that both budgets have.
        smallest: smallest B compared.
        largest: largest B compared.
        change_epochs: change of accuracy from the smallest to the largest B along each seed's
            straight line, at equal epochs; mean over seeds.
        change_epochs_interval: 95 % t interval of `change_epochs`.
        change_steps: the same change at equal steps.
        change_steps_interval: 95 % t interval of `change_steps`.
        difference_p: p-value of the t-test that the two changes are equal: paired, or Welch's if
            the budgets have fewer than two seeds in common.
        share: (change_epochs - change_steps) / change_epochs, the fraction of the effect that goes
            with fewer steps; meaningless if `share_interval` is None.
        share_interval: 95 % Fieller interval of `share`; None if it is unbounded.
        batch_p: p-value of the smooth test that B matters at equal steps.
        steps_p: p-value of the smooth test that the number of steps matters at the same B: that the
            difference between the budgets depends on B.
        paired: whether the budgets have enough seeds in common.
        adjusted: `difference_p`, `batch_p` and `steps_p`, adjusted for those of other pairs of a
            report; else the same.
    """

    dataset: str
    lr_rule: str
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
    paired: bool
    adjusted: tuple[float, float, float]

    @property
    def statement(self) -> str:
        """All of this in words."""
        return f"{_changes_in_words(self)} {_tests_in_words(self)}"


@dataclass(frozen=True)
class _Changes:
    """Changes of accuracy at equal epochs and at equal steps: [n] pairs, or two samples."""

    epochs: Floats
    steps: Floats
    paired: bool

    @property
    def means(self) -> tuple[float, float]:
        return float(self.epochs.mean()), float(self.steps.mean())

    @property
    def covariance(self) -> Floats:
        """The covariance of the two means, float64 [2, 2]."""
        if self.paired:
            return np.atleast_2d(np.cov(self.epochs, self.steps)) / len(self.epochs)
        return np.diag([float(np.var(s, ddof=1)) / len(s) for s in (self.epochs, self.steps)])

    @property
    def dof(self) -> float:
        """Degrees of freedom of the difference; for two samples by Welch (1947)."""
        variances = np.diag(self.covariance)
        if self.paired or not variances.any():
            return float(min(len(self.epochs), len(self.steps)) - 1)
        spare = np.array([len(self.epochs), len(self.steps)]) - 1
        return float(variances.sum() ** 2 / (variances**2 / spare).sum())


def separate(epochs: Curve, steps: Curve, *, draws: int = DRAWS) -> Separation:
    """Tell the effect of B from that of the number of steps, T, which falls with B at equal epochs.

    Sizes that both budgets have are compared. Seeds that both have are pairs, and their lines go
    through the runs that both budgets have; with fewer than two such seeds the budgets count as two
    samples. A seed counts if it has at least three runs that span half the range of log2 B.

    The smooth tests also find bends. They allow for seeds with curves of their own, and for unequal
    noise (`contrasts.SmoothTest`).

    Args:
        epochs: curve at equal epochs.
        steps: curve at equal optimizer steps.
        draws: number of draws of the noise.

    Raises:
        UserError: fewer than three common sizes, or fewer than two seeds in a budget.
    """
    name = epochs.title.replace(f": equal {epochs.budget}", "")
    batches = np.intersect1d(_measured_batches(epochs), _measured_batches(steps))
    if len(batches) < _MIN_SIZES:
        raise UserError(
            f"{name}: {counted(len(batches), 'effective batch')} common to both budgets; at least "
            f"{_MIN_SIZES} are needed to tell batch size from steps"
        )
    changes = _changes(epochs, steps, batches)
    if min(len(changes.epochs), len(changes.steps)) < _MIN_SEEDS:
        raise UserError(
            f"{name}: fewer than {_MIN_SEEDS} seeds with enough sizes under both budgets; "
            "batch size cannot be told from steps"
        )
    change_epochs, change_steps = changes.means
    batch_p, steps_p = _smooth_tests(epochs, steps, batches, draws)
    difference_p = _difference_p(changes)
    return Separation(
        dataset=name,
        lr_rule=epochs.lr_rule,
        batches=batches,
        smallest=int(batches[0]),
        largest=int(batches[-1]),
        change_epochs=change_epochs,
        change_epochs_interval=_t_interval(changes.epochs),
        change_steps=change_steps,
        change_steps_interval=_t_interval(changes.steps),
        difference_p=difference_p,
        share=(change_epochs - change_steps) / change_epochs if change_epochs else float("nan"),
        share_interval=_fraction_interval(changes),
        batch_p=batch_p,
        steps_p=steps_p,
        paired=changes.paired,
        adjusted=(difference_p, batch_p, steps_p),
    )


def _measured_batches(curve: Curve) -> NDArray[np.int64]:
    return curve.batches[np.isfinite(curve.accuracy).any(axis=1)]


def _accuracy_at(batches: NDArray[np.int64], curve: Curve) -> Floats:
    return curve.accuracy[np.searchsorted(curve.batches, batches)]


def _changes(epochs: Curve, steps: Curve, batches: NDArray[np.int64]) -> _Changes:
    x = np.log2(batches.astype(np.float64))
    at_epochs, at_steps = (_accuracy_at(batches, curve) for curve in (epochs, steps))
    _, left, right = np.intersect1d(epochs.seeds, steps.seeds, return_indices=True)
    common = np.isfinite(at_epochs[:, left] + at_steps[:, right])
    paired_epochs, paired_steps = (
        line_changes(x, np.where(common, accuracy, np.nan))
        for accuracy in (at_epochs[:, left], at_steps[:, right])
    )
    if len(paired_epochs) >= _MIN_SEEDS:
        return _Changes(paired_epochs, paired_steps, paired=True)
    return _Changes(line_changes(x, at_epochs), line_changes(x, at_steps), paired=False)


def line_changes(x: Floats, accuracy: Floats) -> Floats:
    """Return the rise over the range of x of the least-squares line of each usable column."""
    changes = []
    for column in accuracy.T:
        known = np.isfinite(column)
        if known.sum() >= _MIN_SIZES and np.ptp(x[known]) >= np.ptp(x) / 2:
            centred = x[known] - x[known].mean()
            changes.append(centred @ column[known] / (centred @ centred) * np.ptp(x))
    return np.array(changes)


def _t_interval(sample: Floats) -> Interval:
    half = half_width(float(sample.std(ddof=1)), len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def _difference_p(changes: _Changes) -> float:
    contrast = np.array([1, -1])
    difference = abs(float(contrast @ changes.means))
    error = float(contrast @ changes.covariance @ contrast) ** 0.5
    if error == 0:
        return float(difference == 0)
    return float(2 * student.sf(difference / error, changes.dof))


def _fraction_interval(changes: _Changes) -> Interval | None:
    change_epochs, change_steps = changes.means
    terms = np.array([[1, -1], [1, 0]])  # the difference, and the change at equal epochs
    covariance = terms @ changes.covariance @ terms.T
    quantile = float(student.ppf(1 - ALPHA / 2, changes.dof))
    interval = fieller(change_epochs - change_steps, change_epochs, covariance, quantile)
    return interval if np.isfinite(interval[0]) else None


def _smooth_tests(
    epochs: Curve, steps: Curve, batches: NDArray[np.int64], draws: int
) -> tuple[float, float]:
    """Return the p-values of B at equal steps, and of steps at equal B."""
    random = np.random.default_rng(0)
    at_epochs, at_steps = (_accuracy_at(batches, curve) for curve in (epochs, steps))
    _, left, right = np.intersect1d(epochs.seeds, steps.seeds, return_indices=True)
    alone = _means_and_errors(batches, at_steps, draws, random)
    if len(left) >= _MIN_SEEDS:
        paired = at_epochs[:, left] - at_steps[:, right]
        difference = _means_and_errors(batches, paired, draws, random)
    else:
        other = _means_and_errors(batches, at_epochs, draws, random)
        difference = (other[0] - alone[0], other[1] - alone[1])
    x = np.log2(batches.astype(np.float64))
    batch_p, steps_p = (
        float(SmoothTest(x, errors).p(means[None])[0]) for means, errors in (alone, difference)
    )
    return batch_p, steps_p


def _means_and_errors(
    batches: NDArray[np.int64], values: Floats, draws: int, random: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the means [k] of values [k, n], and draws [d, k] of their errors."""
    fit = TwoWay(successful_runs(batches, values))
    return fit.means, draw_noise(fit, draws, random).errors


def _changes_in_words(result: Separation) -> str:
    kind = "paired difference" if result.paired else "difference"
    changes = (
        f"From B = {result.smallest:,} to {result.largest:,}, straight lines through the runs of "
        f"each seed change by {_points(result.change_epochs, result.change_epochs_interval)} at "
        f"equal epochs and by {_points(result.change_steps, result.change_steps_interval)} at "
        f"equal optimizer steps ({kind} {p_value(result.adjusted[0])})."
    )
    return f"{changes} {_fraction_in_words(result)}"


def _fraction_in_words(result: Separation) -> str:
    low, high = result.change_epochs_interval
    if low <= 0 <= high:
        return (
            "No change is shown at equal epochs, so it is not said how much goes with fewer steps."
        )
    if result.share_interval is None:
        return "The fraction of the effect that goes with fewer steps cannot be bounded."
    best, low, high = (round(100 * part) for part in (result.share, *result.share_interval))
    fraction = f"{best} % [{low}, {high}]"
    if result.adjusted[0] >= ALPHA:
        return (
            f"The fraction of the effect that goes with fewer steps is {fraction}; adjusted for "
            "the number of tests, it may be zero."
        )
    return f"Of the effect of B, {fraction} goes with fewer steps."


def _tests_in_words(result: Separation) -> str:
    batch = "B" if result.lr_rule == "none" else "B, with its learning rate,"
    return (
        f"At a given B, the number of steps {_matters(result.adjusted[2])}; at a given number of "
        f"steps, {batch} {_matters(result.adjusted[1])}."
    )


def _points(change: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * change:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


def _matters(p: float) -> str:
    return f"{'matters' if p < ALPHA else 'is not shown to matter'} ({p_value(p)})"
