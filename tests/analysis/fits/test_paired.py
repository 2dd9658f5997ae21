"""Means over runs and target seeds: which kind of unit decides, and how often intervals cover."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from analysis.fits.paired import combined, estimate, paired, proportion
from bigbatch_ue.reporting.statistics import summarise


def test_seeds_of_targets_are_the_units_of_what_has_no_run() -> None:
    values = [0.2, 0.3, 0.45]
    found = estimate({(None, seed): value for seed, value in enumerate(values)})
    expected = summarise(values)
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert (found.count, found.basis) == (3, "target seeds")
    assert found.p == pytest.approx(ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize(("part", "basis"), [(0, "runs"), (1, "target seeds")])
def test_the_kind_of_unit_that_varies_more_decides(part: int, basis: str) -> None:
    levels = [0.2, 0.4, 0.6]
    values = {
        (run, seed): levels[(run, seed)[part]] + 0.001 * (run + seed)
        for run in range(3)
        for seed in range(3)
    }
    found = estimate(values)
    assert (found.basis, found.count) == (basis, 3)
    means = [np.mean([v for k, v in values.items() if k[part] == unit]) for unit in range(3)]
    assert found.low == pytest.approx(summarise(means).low)


def test_repeated_targets_do_not_narrow_the_interval_of_runs() -> None:
    once = {(run, 0): 0.2 + 0.1 * run for run in range(3)}
    often = {(run, seed): 0.2 + 0.1 * run for run in range(3) for seed in range(30)}
    assert estimate(often).low == pytest.approx(estimate(once).low)
    assert (estimate(once).basis, estimate(once).count) == ("runs", 3)


def test_a_single_network_has_the_interval_of_its_test_images() -> None:
    found = estimate({(7, 0): 0.3}, (0.25, 0.36))
    assert (found.mean, found.low, found.high) == (0.3, 0.25, 0.36)
    assert (found.count, found.basis) == (1, "test images")
    assert math.isnan(found.p)
    alone = estimate({(None, 0): 0.3})
    assert (alone.low, alone.high, alone.basis) == (None, None, "none")


def test_values_without_spread() -> None:
    assert estimate({(None, 0): 0.0, (None, 1): 0.0}).p == 1
    assert estimate({(None, 0): 0.5, (None, 1): 0.5}).p == 0


def test_pairs_are_of_the_same_run_and_seed_or_else_of_the_same_seed() -> None:
    run = {(0, 0): 0.2, (0, 1): 0.3, (1, 0): 0.4, (2, 5): 0.9}
    control = {(None, 0): 0.9, (None, 1): 0.8}
    expected = {(0, 0): -0.7, (0, 1): -0.5, (1, 0): -0.5}
    assert paired(run, control) == pytest.approx(expected)
    assert paired(control, run) == pytest.approx({key: -v for key, v in expected.items()})
    other = {(0, 0): 0.1, (3, 0): 0.3, (3, 1): 0.3}
    assert paired(run, other) == pytest.approx({(0, 0): 0.1, (0, 1): 0.0, (1, 0): 0.2})
    assert paired({(None, 0): 0.1}, {(None, 1): 0.2}) == {}


def test_intervals_of_test_images_are_wilsons_and_newcombes() -> None:
    for right, count in ((0, 20), (7, 20), (20, 20)):
        _, low, high = proportion(right / count, count)
        assert (low, high) == pytest.approx(proportion_confint(right, count, method="wilson"))
    parts = [proportion(0.9, 50), proportion(0.4, 80)]
    value, low, high = combined(parts, [1, -1])
    assert value == pytest.approx(0.5)
    newcombe = confint_proportions_2indep(45, 50, 32, 80, method="newcomb", compare="diff")
    assert (low, high) == pytest.approx(newcombe)


def test_the_interval_of_a_mean_of_classes_covers_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(0)
    shares, counts = np.array([0.95, 0.2, 0.6]), np.array([40, 15, 25])
    inside = 0
    for right in random.binomial(counts, shares, (4000, 3)):
        parts = [proportion(r / n, int(n)) for r, n in zip(right, counts, strict=True)]
        _, low, high = combined(parts, [1 / 3] * 3)
        inside += low <= shares.mean() <= high
    assert 0.935 < inside / 4000 < 0.975
