"""Runs of a curve, and the means of its sizes with the effects of seeds removed."""

import numpy as np
import pytest

from analysis.fits.runs import TwoWay, successful_runs
from bigbatch_ue.runtime.errors import UserError

BATCHES = np.array([8, 16, 32])
SIZES, SEEDS = np.array([0.1, 0.4, 0.3]), np.array([-0.05, 0.02, 0.03])


def test_means_of_a_whole_table_are_those_of_the_sizes() -> None:
    values = np.random.default_rng(0).random((3, 4))
    fit = TwoWay(successful_runs(BATCHES, values))
    np.testing.assert_allclose(fit.means, values.mean(1))
    assert fit.freedom == (3 - 1) * (4 - 1)
    left = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    np.testing.assert_allclose(fit.residuals, left.ravel(), atol=1e-12)


def test_a_missing_run_does_not_shift_the_means() -> None:
    """A bad seed is missing at one size: the plain mean there would be too good."""
    values = SIZES[:, None] + SEEDS
    values[1, 2] = np.nan
    fit = TwoWay(successful_runs(BATCHES, values))
    np.testing.assert_allclose(np.diff(fit.means), np.diff(SIZES), atol=1e-12)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-12)


def test_a_seed_that_occurs_once_counts_as_noise() -> None:
    values = np.full((3, 4), np.nan)
    values[:, :3] = SIZES[:, None] + SEEDS
    values[0, 3] = 0.5
    runs = successful_runs(BATCHES, values)
    fit = TwoWay(runs)
    assert len(runs.of_seed) == 3
    assert fit.means[1:] == pytest.approx(SIZES[1:])
    assert fit.means[0] == pytest.approx((3 * SIZES[0] + 0.5) / 4)


def test_seeds_that_never_meet_have_no_effects() -> None:
    values = np.full((3, 6), np.nan)
    for size in range(3):
        values[size, 2 * size : 2 * size + 2] = [0.2 + size / 10, 0.3 + size / 10]
    fit = TwoWay(successful_runs(BATCHES, values))
    assert fit.to_effects.shape[0] == 0
    assert fit.freedom == 3
    np.testing.assert_allclose(fit.means, [0.25, 0.35, 0.45])


def test_seeds_of_the_same_sizes_are_one_pattern() -> None:
    values = np.ones((3, 4))
    values[2, 3] = np.nan
    patterns = list(successful_runs(BATCHES, values).patterns())
    assert [(sizes.tolist(), runs.shape) for sizes, runs in patterns] == [
        ([0, 1, 2], (3, 3)),
        ([0, 1], (1, 2)),
    ]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([[0.1, 0.2], [0.2, 0.3], [np.nan, np.nan]], "at least 3"),
        ([[0.1, np.nan], [0.2, np.nan], [0.3, 0.4]], "fewer than 2 runs"),
    ],
)
def test_too_few_runs_are_refused(values: list[list[float]], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        successful_runs(BATCHES, np.array(values))


def test_a_size_without_a_run_is_left_out() -> None:
    values = np.random.default_rng(0).random((4, 3))
    values[1] = np.nan
    runs = successful_runs(np.array([8, 16, 32, 64]), values)
    assert runs.batches.tolist() == [8, 32, 64]


def test_seeds_that_leave_nothing_to_measure_noise_by_are_refused() -> None:
    values = np.full((4, 3), np.nan)
    values[0, :2] = values[1, 1:] = [0.1, 0.2]
    values[2, 0] = values[3, 2] = 0.3
    with pytest.raises(UserError, match="too few runs share a seed"):
        TwoWay(successful_runs(np.array([8, 16, 32, 64]), values))
