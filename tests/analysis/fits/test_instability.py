"""Instability: where the accuracy of runs spreads, across seeds or within a run."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from analysis.defaults import DRAWS
from analysis.fits.instability import (
    EVEN_RATIO,
    InstabilityFit,
    deviations_across_seeds,
    deviations_within_runs,
    fit_instability,
    pool,
)
from analysis.fits.runs import Integers
from tests.analysis.simulator import SHAPES, Design, Floats, failing, normal, student

RESOLUTION = 1 / 1000
EIGHT = 2 ** np.arange(4, 12)


def across_seeds(batches: Integers, accuracy: Floats, *, draws: int = DRAWS) -> InstabilityFit:
    deviations = deviations_across_seeds(batches, accuracy, resolution=RESOLUTION)
    return fit_instability("seeds", deviations, draws=draws)


def within_runs(
    batches: Integers,
    oscillation: Floats,
    accuracy: Floats,
    *,
    tail_epochs: int = 5,
    draws: int = DRAWS,
) -> InstabilityFit:
    deviations = deviations_within_runs(
        batches, oscillation, accuracy, resolution=RESOLUTION, tail_epochs=tail_epochs
    )
    return fit_instability("oscillation", deviations, draws=draws)


def spreads(make: Callable[[np.random.Generator], Floats], count: int = 60) -> list[InstabilityFit]:
    random = np.random.default_rng(7)
    fits = []
    for _ in range(count):
        values = make(random)
        fits.append(across_seeds(EIGHT[: len(values)], values, draws=100))
    return fits


def claims(fits: list[InstabilityFit]) -> float:
    return float(np.mean([fit.shape not in ("even", "inconclusive") for fit in fits]))


def named(fits: list[InstabilityFit], shape: str) -> float:
    return float(np.mean([fit.shape == shape for fit in fits]))


def growing(factor: Floats, n: int) -> Callable[[np.random.Generator], Floats]:
    """Runs whose standard deviation is 0.04 times `factor` [k]."""
    return lambda random: (
        0.4
        + 0.04 * factor[:, None] * random.normal(size=(len(factor), n))
        + 0.005 * random.normal(size=n)
    )


LEVEL = np.ones(8)
RISING = 4.0 ** np.linspace(0, 1, 8)
BOTH = 1 + 3 * SHAPES["U"](np.linspace(0, 1, 8))


@pytest.mark.parametrize("noise", [normal, student, failing(0.05), failing(0.075)])
def test_runs_of_one_spread_seldom_pass_for_unstable(noise: Callable[..., Floats]) -> None:
    """Two tests at 5 %: more than 13 of 60 claims are made once in a hundred times."""
    design = Design(8, 5, noise=noise)
    fits = spreads(lambda random: design.accuracy(SHAPES["flat"], 0, random))
    assert claims(fits) <= 9 / 60


@pytest.mark.parametrize("shape", ["U", "slope"])
def test_a_mean_near_chance_is_not_instability(shape: str) -> None:
    """The noise is even in log odds, so that accuracies spread less where they are low."""
    design = Design(8, 20)
    fits = spreads(lambda random: design.bounded(SHAPES[shape], 0.11, 0.5, random), 40)
    assert claims(fits) <= 6 / 40


def test_a_mean_that_bends_is_not_instability() -> None:
    design = Design(8, 5)
    fits = spreads(lambda random: design.accuracy(SHAPES["U"], 0.3, random))
    assert claims(fits) <= 9 / 60


def test_a_spread_that_grows_is_found_and_its_end_is_named() -> None:
    fits = spreads(growing(RISING, 10), 40)
    assert named(fits, "large batches") >= 0.75
    assert named(fits, "small batches") == 0
    assert np.median([fit.change for fit in fits]) == pytest.approx(4, rel=0.35)
    inside = [fit.change_interval[0] <= 4 <= fit.change_interval[1] for fit in fits]
    assert np.mean(inside) >= 0.85
    fits = spreads(growing(RISING[::-1], 10), 40)
    assert named(fits, "small batches") >= 0.75


def test_levels_of_seeds_do_not_hide_a_spread_that_grows() -> None:
    def make(random: np.random.Generator) -> Floats:
        return growing(RISING, 10)(random) + 0.15 * random.normal(size=10)

    assert named(spreads(make, 30), "large batches") >= 0.6


def test_seeds_that_come_closer_are_not_unstable_where_they_agree() -> None:
    """What is left beside a seed's level grows there, while the standard deviation falls."""
    random = np.random.default_rng(0)
    near = np.array([1, 1, 1, 1, 0.9, 0.7, 0.3, 0.05])[:, None]
    for _ in range(10):
        values = 0.5 + 0.2 * near * random.uniform(-1, 1, 5) + 0.01 * random.normal(size=(8, 5))
        fit = across_seeds(EIGHT, values, draws=100)
        assert fit.change < 0.5
        assert fit.shape != "large batches"


def test_many_seeds_show_both_ends() -> None:
    assert named(spreads(growing(BOTH, 20), 30), "both ends") >= 0.6
    assert named(spreads(growing(BOTH.max() / BOTH, 20), 30), "both ends") == 0


def test_even_is_said_of_level_spreads_and_hardly_ever_where_they_differ_threefold() -> None:
    assert named(spreads(growing(LEVEL, 15), 30), "even") >= 0.6
    threefold = np.where(np.arange(8) == 3, EVEN_RATIO, 1.0)
    assert named(spreads(growing(threefold, 15), 60), "even") <= 0.1


def test_the_band_holds_the_spread() -> None:
    fits = spreads(growing(RISING, 8), 40)
    truth = 0.04 * 4.0 ** np.linspace(0, 1, len(fits[0].at))
    inside = [(fit.low <= truth) & (truth <= fit.high) for fit in fits]
    assert np.mean(inside) >= 0.88


def test_deviations_are_those_of_the_runs() -> None:
    values = np.random.default_rng(0).random((6, 5))
    values[2, 3] = np.nan
    values[4, 1:] = np.nan
    fit = across_seeds(EIGHT[:6], values, draws=100)
    expected = [np.nanstd(row, ddof=1) if np.isfinite(row).sum() > 1 else np.nan for row in values]
    np.testing.assert_allclose(fit.std, expected)
    assert fit.is_measured


def test_a_run_far_away_is_one_rank() -> None:
    """However far it is, the claim is the same."""
    values = 0.4 + 0.02 * np.random.default_rng(3).normal(size=(8, 5))
    near, far = values.copy(), values.copy()
    near[7, 2], far[7, 2] = 0.6, 0.95
    first, second = (across_seeds(EIGHT, one) for one in (near, far))
    assert first.trend_p == pytest.approx(second.trend_p, abs=0.02)


def test_the_first_shape_that_applies_is_the_verdict() -> None:
    fit = across_seeds(EIGHT, growing(LEVEL, 4)(np.random.default_rng(0)))
    wide = replace(fit, adjusted_both_ends_p=0.2, adjusted_trend_p=0.2, largest_ratio=9.0)
    assert wide.shape == "inconclusive"
    assert replace(wide, largest_ratio=2.9).shape == "even"
    rising = replace(wide, adjusted_trend_p=0.01, rises=True)
    assert rising.shape == "large batches"
    assert replace(rising, rises=False).shape == "small batches"
    assert replace(rising, adjusted_both_ends_p=0.01).shape == "both ends"


@pytest.mark.parametrize("runs", [(3, 5), (8, 1)])
def test_with_too_few_runs_nothing_is_claimed_and_what_is_known_is_kept(
    runs: tuple[int, int],
) -> None:
    values = np.random.default_rng(0).random(runs)
    fit = across_seeds(EIGHT[: runs[0]], values)
    assert fit.shape == "inconclusive"
    assert np.isnan([fit.trend_p, fit.both_ends_p, *fit.fitted, *fit.change_interval]).all()
    assert fit.is_measured == (runs[1] > 1)


def test_equal_runs_have_no_spread_and_no_claim() -> None:
    fit = across_seeds(EIGHT, np.full((8, 5), 0.3))
    assert not fit.std.any()
    assert fit.shape in ("even", "inconclusive")
    assert np.isfinite(fit.fitted).all()


# -- within a run --------------------------------------------------------------------------------


def oscillations(
    scale: Floats, accuracy: float | Floats = 0.4, n: int = 5, count: int = 60
) -> list[InstabilityFit]:
    """Runs of five last epochs, whose accuracy oscillates by 0.02 times `scale` [k]."""
    random = np.random.default_rng(9)
    shape = (len(scale), n)
    fits = []
    for _ in range(count):
        own = np.exp(0.3 * random.normal(size=shape)) * np.sqrt(random.chisquare(3, shape) / 3)
        fits.append(
            within_runs(
                EIGHT[: len(scale)],
                0.02 * scale[:, None] * own,
                np.broadcast_to(np.asarray(accuracy), (n, len(scale))).T,
                draws=100,
            )
        )
    return fits


def test_runs_that_oscillate_alike_seldom_pass_for_unstable() -> None:
    assert claims(oscillations(LEVEL)) <= 9 / 60


def test_oscillation_that_follows_the_mean_is_not_instability() -> None:
    mean = 0.05 + 0.45 * SHAPES["slope"](np.linspace(0, 1, 8))
    scale = mean * (1 - mean) / 0.24
    assert claims(oscillations(scale, mean)) <= 9 / 60


def test_oscillation_that_grows_is_found() -> None:
    fits = oscillations(RISING, count=20)
    assert named(fits, "large batches") >= 0.85


def test_oscillation_is_pooled_over_the_runs_of_a_size() -> None:
    values = np.array([[0.03, 0.04], [0.05, np.nan], [np.nan, np.nan], [0.1, 0.2], [0.1, 0.1]])
    fit = within_runs(EIGHT[:5], values, np.full((5, 2), 0.4))
    expected = np.sqrt([0.00125, 0.0025, np.nan, 0.025, 0.01])
    np.testing.assert_allclose(fit.std, expected)
    assert fit.kind == "oscillation"


@pytest.mark.parametrize("epochs", [0, 2])
def test_fewer_than_three_epochs_measure_no_oscillation(epochs: int) -> None:
    values = np.full((8, 5), 0.02)
    fit = within_runs(EIGHT, values, np.full((8, 5), 0.4), tail_epochs=epochs)
    assert not fit.is_measured
    assert fit.shape == "inconclusive"


# -- data sets together --------------------------------------------------------------------------


def pooled(
    make: Callable[[np.random.Generator], Floats], count: int = 40, datasets: int = 4
) -> list[InstabilityFit]:
    """Data sets whose noise is 1, 2, 3, ... times that of `make`, and whose B begin elsewhere."""
    random = np.random.default_rng(7)
    fits = []
    for _ in range(count):
        deviations = [
            deviations_across_seeds(
                2**place * EIGHT, 0.4 + place * (make(random) - 0.4), resolution=RESOLUTION
            )
            for place in range(1, datasets + 1)
        ]
        fits.append(fit_instability("seeds", pool(deviations), draws=100))
    return fits


def test_data_sets_together_show_a_growth_that_one_alone_hides() -> None:
    """Threefold, five seeds: the growth is by B relative to the smallest of each data set."""
    threefold = growing(0.5 * 3.0 ** np.linspace(0, 1, 8), 5)
    alone, together = spreads(threefold, 40), pooled(threefold)
    assert named(alone, "large batches") <= 0.5
    assert named(together, "large batches") >= named(alone, "large batches") + 0.3
    assert named(together, "small batches") == 0


def test_data_sets_together_of_one_spread_seldom_pass_for_unstable() -> None:
    assert claims(pooled(growing(0.5 * LEVEL, 5))) <= 6 / 40


def test_a_data_set_pooled_with_itself_keeps_its_curve_in_units_of_its_spread() -> None:
    values = growing(RISING, 10)(np.random.default_rng(0))
    own = deviations_across_seeds(EIGHT, values, resolution=RESOLUTION)
    twice = fit_instability("seeds", pool([own, own]), draws=100)
    np.testing.assert_allclose(twice.std, across_seeds(EIGHT, values, draws=100).std / own.unit)
    assert own.unit == pytest.approx(np.sqrt(np.mean(np.var(values, axis=1, ddof=1))))


def test_a_data_set_with_larger_batches_and_more_oscillation_does_not_hide_a_fall() -> None:
    random = np.random.default_rng(0)
    falling = 4.0 ** np.linspace(0.5, -0.5, 8)[:, None]
    deviations = [
        deviations_within_runs(
            factor * EIGHT,
            scale * falling * np.exp(0.3 * random.normal(size=(8, 5))),
            np.full((8, 5), 0.5),
            resolution=RESOLUTION,
            tail_epochs=5,
        )
        for factor, scale in ((1, 0.005), (16, 0.05))
    ]
    fit = fit_instability("oscillation", pool(deviations), draws=100)
    assert fit.shape == "small batches"
    assert fit.trend_p < 0.001
