"""Whether the spread across seeds changes by the same factor in every data set."""

from collections.abc import Callable

import numpy as np
import pytest

from analysis.fits.spread_changes import compare_spread
from analysis.table.table import Curve, Floats
from tests.helpers.findings import a_curve

SIZES, SEEDS, SETS = 8, 5, 4


def a_spreading_curve(noise: Floats, factor: float = 1.0, *, mean: float = 0.5) -> Curve:
    """A curve whose standard deviation changes by `factor` from the smallest to the largest B."""
    std = 0.06 * factor ** np.linspace(-0.5, 0.5, SIZES)[:, None]
    return a_curve(SIZES, SEEDS, accuracy=(mean + std * noise).clip(0.001, 0.999))


def normal(random: np.random.Generator) -> Floats:
    return random.normal(size=(SIZES, SEEDS))


def all_or_nothing(random: np.random.Generator) -> Floats:
    fails = random.random((SIZES, SEEDS)) < 0.2
    return np.where(fails, 4.0, 0.0) + 0.3 * normal(random)


def test_the_factors_are_those_of_lines_through_the_logarithms_of_standard_deviations() -> None:
    random = np.random.default_rng(0)
    curves = [a_spreading_curve(normal(random)) for _ in range(2)]
    found = compare_spread(curves)
    x = np.linspace(0, 1, SIZES)
    expected = [np.polyfit(x, np.log(one.accuracy.std(1, ddof=1)), 1)[0] for one in curves]
    assert found.factors == pytest.approx(np.exp(expected))
    assert found.adjusted_differ_p == found.differ_p


@pytest.mark.parametrize("noise", [normal, all_or_nothing])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_equal_factors_seldom_differ(
    noise: Callable[[np.random.Generator], Floats], factor: float
) -> None:
    random = np.random.default_rng(1)
    p = [
        compare_spread([a_spreading_curve(noise(random), factor) for _ in range(SETS)]).differ_p
        for _ in range(40)
    ]
    assert np.sum(np.array(p) < 0.05) <= 5


def test_one_data_set_whose_seeds_come_together_differs() -> None:
    random = np.random.default_rng(2)
    factors = [1.0, 1.0, 1.0, 1 / 12]
    p = [
        compare_spread([a_spreading_curve(normal(random), one) for one in factors]).differ_p
        for _ in range(15)
    ]
    assert np.mean(np.array(p) < 0.05) >= 0.7


def test_spread_that_follows_the_mean_towards_a_limit_is_no_difference() -> None:
    random = np.random.default_rng(3)
    rise = np.linspace(0, 4, SIZES)[:, None]
    found = []
    for _ in range(10):
        odds = [0.8 * normal(random) + slope * rise for slope in (0, 1)]
        curves = [a_curve(SIZES, SEEDS, accuracy=1 / (1 + np.exp(-one))) for one in odds]
        found.append(compare_spread(curves))
    assert np.median([one.factors[1] for one in found]) < 0.3
    assert sum(one.differ_p < 0.05 for one in found) <= 1


def test_data_sets_with_too_few_sizes_of_two_runs_are_left_out() -> None:
    random = np.random.default_rng(4)
    few = a_spreading_curve(normal(random))
    few.accuracy[:5, 1:] = np.nan
    found = compare_spread([a_spreading_curve(normal(random)), few])
    assert np.isfinite(found.factors).tolist() == [True, False]
    assert np.isnan(found.differ_p)
