import warnings
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.genmod.families import Gamma
from statsmodels.genmod.families.links import Log
from statsmodels.genmod.generalized_linear_model import GLM

from analysis.fits.instability import EVEN_RATIO, InstabilityFit, Kind, fit_instability
from analysis.table.table import Floats

BATCHES = 2 ** np.arange(1, 12)
X = np.log2(BATCHES)
U = np.linspace(-1, 1, len(BATCHES))
SEEDS = 5
RUNS = 200
"""Simulated sweeps of a curve: a rate of 10 % that may be 5 % fails in 99 of 100 draws of them."""
FLOOR = 1 / (12 * 10_000**2)


def falling(ratio: float) -> Floats:
    """Log standard deviation that falls by `ratio` along a line over the range."""
    return -np.log(ratio) * (U + 1) / 2


def bowl(ratio: float, bottom: float = 0.0) -> Floats:
    """Log standard deviation of a parabola whose higher end is `ratio` times its bottom."""
    return np.log(ratio) * ((U - bottom) / (1 + abs(bottom))) ** 2


def falling_then_level(ratio: float, knee: float = 0.0) -> Floats:
    return np.log(ratio) * np.maximum(0, knee - U) / (knee + 1)


def accuracies(
    random: np.random.Generator, log_std: Floats, seeds: int = SEEDS, noise: str = "normal"
) -> Floats:
    size = (len(log_std), seeds)
    draw = {
        "normal": lambda: random.standard_normal(size),
        "heavy": lambda: random.standard_t(5, size) / np.sqrt(5 / 3),
    }[noise]()
    return 0.5 + 0.01 * np.exp(log_std)[:, None] * draw


def bounded(random: np.random.Generator, log_std: Floats) -> Floats:
    """Accuracies near their lower bound: beta with mean 15 %, at most 12 points of deviation."""
    std = 0.12 * np.exp(log_std - log_std.max())
    sharpness = (0.15 * 0.85 / std**2 - 1)[:, None]
    return random.beta(0.15 * sharpness, 0.85 * sharpness, (len(log_std), SEEDS))


@cache
def _fits(curve: tuple[float, ...], noise: str, count: int) -> list[InstabilityFit]:
    random = np.random.default_rng(7)
    log_std = np.array(curve)
    make = (
        (lambda: bounded(random, log_std))
        if noise == "bounded"
        else lambda: accuracies(random, log_std, noise=noise)
    )
    return [fit_instability(BATCHES, make(), "seeds", floor=FLOOR) for _ in range(count)]


def fits(log_std: Floats, noise: str = "normal", count: int = RUNS) -> list[InstabilityFit]:
    return _fits(tuple(log_std), noise, count)


def shapes(found: list[InstabilityFit]) -> Counter[str]:
    """Percentages."""
    return Counter({k: 100 * n / len(found) for k, n in Counter(f.shape for f in found).items()})


def oscillations(
    random: np.random.Generator, log_std: Floats, epochs: int, spread: float = 0.4
) -> Floats:
    """Deviations around a line, of epochs like the one before, in runs that differ."""
    noise = random.standard_normal((len(log_std), SEEDS, epochs))
    for epoch in range(1, epochs):
        noise[..., epoch] = 0.5 * noise[..., epoch - 1] + 0.75**0.5 * noise[..., epoch]
    run = np.exp(log_std[:, None] + spread * random.standard_normal((len(log_std), SEEDS)))
    trend = np.column_stack([np.ones(epochs), np.arange(epochs)])
    around = noise - noise @ (trend @ np.linalg.pinv(trend))
    return 0.01 * run * np.sqrt((around**2).sum(axis=-1) / (epochs - 2))


def glm(variance: Floats, weight: Floats) -> tuple[Floats, Floats, float]:
    """Statsmodels' own defaults, on uncentred x: parameters, unscaled covariance and scale."""
    design = np.column_stack([np.ones_like(X), X, X**2])
    result = GLM(variance, design, family=Gamma(link=Log()), var_weights=weight).fit(
        scale="X2", maxiter=200, tol=1e-12
    )
    return result.params, result.cov_params() / result.scale, result.scale


# -- error rates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log_std",
    [falling(1), falling(2), -falling(3), falling(10), -bowl(3, 1)[::-1], bowl(10, -1)],
    ids=["level", "falls 2", "rises 3", "falls 10", "falls and levels 3", "levels and rises 10"],
)
def test_curves_without_two_rising_ends_seldom_pass_for_unstable_at_both(log_std: Floats) -> None:
    assert shapes(fits(log_std))["both ends"] <= 5


def test_a_bend_to_a_level_passes_for_two_ends_far_less_often_than_by_end_slopes_alone() -> None:
    # Of 3,000: 4 and 7 %; by end slopes alone 8 and 24 %.
    assert shapes(fits(falling_then_level(3)))["both ends"] <= 7
    assert shapes(fits(falling_then_level(10), count=150))["both ends"] <= 12


def test_level_variances_show_a_trend_in_at_most_one_of_twenty() -> None:
    found = shapes(fits(falling(1)))
    assert found["small batches"] + found["large batches"] <= 5


def test_a_mild_bowl_is_seen_in_four_of_five_with_five_seeds() -> None:
    assert shapes(fits(bowl(3.5)))["both ends"] >= 80  # 87 % of 3,000


def test_power_grows_with_the_depth_of_the_bowl() -> None:
    powers = [shapes(fits(bowl(ratio)))["both ends"] for ratio in (2, 3, 3.5)]
    assert powers == sorted(powers)
    assert powers[0] >= 30  # 37 % of 3,000
    assert powers[1] >= 70  # 78 %


def test_the_two_lines_meet_wherever_the_valley_is() -> None:
    random = np.random.default_rng(3)
    knee = 0.4
    sides = np.where(knee > U, np.log(10) * (knee - U) / 1.4, np.log(3) * (U - knee) / 0.6)
    found = [
        fit_instability(BATCHES, accuracies(random, sides, 20), "seeds", floor=FLOOR).shape
        for _ in range(40)
    ]
    assert found.count("both ends") >= 30


@pytest.mark.parametrize("noise", ["heavy", "bounded"])
def test_noise_that_is_not_normal_keeps_the_error_rates(noise: str) -> None:
    level, falls = shapes(fits(falling(1), noise)), shapes(fits(falling(3), noise))
    assert level["both ends"] <= 5
    assert falls["both ends"] <= 5
    assert level["small batches"] + level["large batches"] <= 8


@pytest.mark.parametrize(("noise", "power"), [("heavy", 65), ("bounded", 65)])
def test_noise_that_is_not_normal_costs_some_power(noise: str, power: float) -> None:
    assert shapes(fits(bowl(3.5), noise, 100))["both ends"] >= power


def test_a_clear_fall_or_rise_is_named_by_its_unstable_end() -> None:
    assert shapes(fits(falling(10)))["small batches"] >= 99
    assert shapes(fits(-falling(10), count=20))["large batches"] >= 99


def test_a_hump_is_inconclusive() -> None:
    found = shapes(fits(-bowl(10), count=50))
    assert found["inconclusive"] >= 90
    assert found["both ends"] == 0


def test_even_is_said_of_level_curves_and_hardly_ever_where_deviations_differ_threefold() -> None:
    assert shapes(fits(falling(1)))["even"] >= 10
    assert shapes(fits(bowl(EVEN_RATIO)))["even"] <= 2.5
    assert shapes(fits(falling(EVEN_RATIO)))["even"] <= 2.5


def test_many_seeds_show_that_a_level_curve_is_even() -> None:
    random = np.random.default_rng(5)
    found = [
        fit_instability(BATCHES, accuracies(random, falling(1), 20), "seeds", floor=FLOOR).shape
        for _ in range(50)
    ]
    assert found.count("even") >= 40


# -- estimates -------------------------------------------------------------------------------------


def test_the_minimum_lies_in_its_interval_nineteen_times_of_twenty() -> None:
    found = fits(bowl(3.5))
    intervals = [fit.calmest_interval for fit in found if fit.calmest_interval]
    inside = [low <= 2**6 <= high for low, high in intervals]
    assert len(intervals) > 0.95 * RUNS
    assert 0.93 <= np.mean(inside) <= 0.995
    assert np.mean([np.isfinite(high) for _, high in intervals]) > 0.8


def test_without_noise_the_parameters_come_back() -> None:
    log_variance = 0.3 - 0.9 * X + 0.08 * X**2
    std = 0.01 * np.exp(log_variance / 2)
    values = 0.5 + std[:, None] * np.array([-1.0, 0, 1])
    fit = fit_instability(BATCHES, values, "seeds", floor=1e-30)
    assert fit.slope_low == pytest.approx(-0.9 + 2 * 0.08 * 1)
    assert fit.slope_high == pytest.approx(-0.9 + 2 * 0.08 * 11)
    assert fit.calmest == pytest.approx(2 ** (0.9 / 0.16))
    np.testing.assert_allclose(fit.std, std)
    np.testing.assert_allclose(fit.fitted[[0, -1]], std[[0, -1]])


def test_slopes_are_right_on_average_and_their_errors_honest() -> None:
    found = fits(bowl(3))
    slope = 4 * np.log(3) / 5
    low = np.array([fit.slope_low for fit in found])
    assert low.mean() == pytest.approx(-slope, abs=0.06)
    assert low.std() <= np.mean([fit.slope_low_error for fit in found]) * 1.1
    assert low.std() >= np.mean([fit.slope_low_error for fit in found]) * 0.8


def test_the_band_holds_the_curve_nineteen_times_of_twenty() -> None:
    found = fits(bowl(3))
    truth = 0.01 * np.exp(np.interp(np.log2(found[0].at), X, bowl(3)))
    inside = np.mean([(fit.low <= truth) & (truth <= fit.high) for fit in found])
    assert 0.93 <= inside <= 0.99


@pytest.mark.parametrize("scale", ["theory", "estimated"])
def test_the_fit_is_the_one_of_statsmodels(scale: str) -> None:
    values = accuracies(np.random.default_rng(4), bowl(8), 6)
    values[9] = 0.5 + (0.4 if scale == "theory" else 2) * (values[9] - 0.5)
    values[3, :2] = np.nan
    values[8, :4] = np.nan
    weight = (np.isfinite(values).sum(axis=1) - 1) / 2
    params, covariance, pearson = glm(np.nanvar(values, axis=1, ddof=1), weight)
    assert (pearson > 1) == (scale == "estimated")
    fit = fit_instability(BATCHES, values, "seeds", floor=1e-30)
    for x, slope, error in (
        (X[0], fit.slope_low, fit.slope_low_error),
        (X[-1], fit.slope_high, fit.slope_high_error),
    ):
        row = np.array([0, 1, 2 * x])
        assert slope == pytest.approx(row @ params, rel=1e-6)
        assert error == pytest.approx(np.sqrt(max(pearson, 1) * row @ covariance @ row), rel=1e-6)
    trend = np.array([0, 1, X[0] + X[-1]])
    t = trend @ params / np.sqrt(max(pearson, 1) * trend @ covariance @ trend)
    assert fit.trend_p == pytest.approx(2 * student.sf(abs(t), 8), rel=1e-6)
    assert fit.calmest_interval is not None
    for end in np.log2(fit.calmest_interval):  # Fieller: where the slope is just not zero
        row = np.array([0, 1, 2 * end])
        t = row @ params / np.sqrt(max(pearson, 1) * row @ covariance @ row)
        assert abs(t) == pytest.approx(student.ppf(0.975, 8), rel=1e-6)
    at = np.log2(fit.at)
    expected = np.column_stack([np.ones_like(at), at, at**2]) @ params
    np.testing.assert_allclose(fit.fitted, np.exp(expected / 2), rtol=1e-6)


def test_four_sizes_solve_the_score_equations_in_closed_form() -> None:
    """Of x = -1.5, -0.5, 0.5, 1.5 the fourth contrast is free: residuals are t (1, -3, 3, -1)."""
    batches = np.array([2, 4, 8, 16])
    values = 0.5 + np.array([4.0, 1, 2, 5])[:, None] * 0.01 * np.array([-1.0, 0, 1])
    fit = fit_instability(batches, values, "seeds", floor=1e-30)
    fitted = np.interp(np.log2(batches), np.log2(fit.at), np.log(fit.fitted))
    residual = fit.std**2 / np.exp(2 * fitted) - 1
    np.testing.assert_allclose(residual / residual[0], [1, -3, 3, -1], rtol=2e-3)


def test_the_both_ends_test_is_the_larger_one_sided_p_of_the_end_slopes_where_they_fail() -> None:
    checked = 0
    for fit in fits(bowl(2)):
        falls = student.cdf(fit.slope_low / fit.slope_low_error, 8)
        rises = student.sf(fit.slope_high / fit.slope_high_error, 8)
        if max(falls, rises) >= 0.05:
            assert fit.both_ends_p == pytest.approx(max(falls, rises))
            checked += 1
        else:
            assert fit.both_ends_p >= max(falls, rises)
    assert checked > 50


def test_the_shape_is_read_from_the_p_values_in_the_documented_order() -> None:
    found = [*fits(falling(1)), *fits(falling(2)), *fits(bowl(2))]
    for fit in found:
        if fit.both_ends_p < 0.05:
            assert fit.shape == "both ends"
        elif fit.trend_p < 0.05:
            falls = fit.slope_low + fit.slope_high < 0
            assert fit.shape == ("small batches" if falls else "large batches")
        else:
            assert fit.shape in ("even", "inconclusive")
    assert len({fit.shape for fit in found}) == 5


def test_a_strong_bend_alone_does_not_pass_for_two_ends() -> None:
    log_std = bowl(100, -1)  # convex, and its minimum at the smallest size
    found = fits(log_std, count=100)
    assert shapes(found)["both ends"] <= 5
    assert shapes(found)["large batches"] >= 95


def test_the_trend_is_the_mean_slope_over_the_range() -> None:
    found = fits(falling(3))
    slopes = [(fit.slope_low + fit.slope_high) / 2 for fit in found]
    assert np.mean(slopes) == pytest.approx(-2 * np.log(3) / 10, rel=0.1)
    assert np.mean([fit.trend_p < 0.05 for fit in found]) > 0.6


def test_reversing_the_sizes_swaps_the_ends() -> None:
    values = accuracies(np.random.default_rng(2), bowl(6, 0.3))
    one = fit_instability(BATCHES, values, "seeds", floor=FLOOR)
    other = fit_instability(BATCHES, values[::-1], "seeds", floor=FLOOR)
    assert one.slope_low == pytest.approx(-other.slope_high)
    assert one.slope_high_error == pytest.approx(other.slope_low_error)
    assert one.both_ends_p == pytest.approx(other.both_ends_p)
    assert one.calmest is not None
    assert other.calmest == pytest.approx(2**12 / one.calmest)


def test_the_unit_of_accuracy_changes_nothing_but_the_unit() -> None:
    values = accuracies(np.random.default_rng(2), bowl(4))
    one = fit_instability(BATCHES, values, "seeds", floor=1e-30)
    other = fit_instability(BATCHES, 100 * values, "seeds", floor=1e-30)
    assert other.shape == one.shape
    assert other.both_ends_p == pytest.approx(one.both_ends_p)
    np.testing.assert_allclose(other.high, 100 * one.high)


def test_the_minimum_is_given_only_inside_the_range() -> None:
    for fit in [*fits(falling(10)), *fits(bowl(2))]:
        assert (fit.calmest is None) == (fit.calmest_interval is None)
        if fit.calmest is not None and fit.calmest_interval is not None:
            assert 2 <= fit.calmest <= 2048
            assert fit.calmest_interval[0] <= fit.calmest <= fit.calmest_interval[1]


def test_the_drawn_curve_spans_the_sizes_in_logarithmic_steps() -> None:
    fit = fit_instability(
        BATCHES, accuracies(np.random.default_rng(0), bowl(3)), "seeds", floor=FLOOR
    )
    np.testing.assert_allclose(fit.at, np.geomspace(2, 2048, 200))
    assert (fit.low < fit.fitted).all()
    assert (fit.fitted < fit.high).all()


# -- oscillation -----------------------------------------------------------------------------------


def oscillation_shapes(log_std: Floats, epochs: int, spread: float, count: int) -> Counter[str]:
    random = np.random.default_rng(9)
    return shapes(
        [
            fit_instability(
                BATCHES,
                oscillations(random, log_std, epochs, spread),
                "oscillation",
                floor=FLOOR,
                tail_epochs=epochs,
            )
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("log_std", [falling(1), falling(3)], ids=["level", "falls"])
def test_oscillation_of_runs_that_differ_seldom_passes_for_two_ends(log_std: Floats) -> None:
    found = oscillation_shapes(log_std, 8, 0.4, 3 * RUNS)
    assert found["both ends"] <= 5
    if log_std[0] == log_std[-1]:
        assert found["small batches"] + found["large batches"] <= 9


def test_oscillation_shows_a_bowl() -> None:
    assert oscillation_shapes(bowl(3), 8, 0.4, 60)["both ends"] >= 80


def test_oscillation_pools_the_variances_of_a_size() -> None:
    values = np.array([[0.01, 0.03], [0.02, np.nan], [0.01, 0.01], [0.03, 0.01], [0.02, 0.04]])
    fit = fit_instability(BATCHES[:5], values, "oscillation", floor=FLOOR, tail_epochs=5)
    expected = np.sqrt(np.nanmean(values**2, axis=1))
    np.testing.assert_allclose(fit.std, expected)
    assert np.isfinite(fit.slope_low)


def test_oscillation_has_errors_by_the_epochs_and_runs_where_runs_agree() -> None:
    """Scale 1 and weights n (T - 2) / 2: errors fall with the root of either."""
    agree = 0.01 * np.exp(bowl(3))[:, None]

    def error(runs: int, epochs: int) -> float:
        values = np.repeat(agree, runs, axis=1)
        return fit_instability(
            BATCHES, values, "oscillation", floor=FLOOR, tail_epochs=epochs
        ).slope_low_error

    assert error(4, 9) == pytest.approx(error(1, 9) / 2)
    assert error(2, 34) == pytest.approx(error(2, 10) / 2)


@pytest.mark.parametrize("epochs", [0, 2])
def test_fewer_than_three_epochs_measure_no_oscillation(epochs: int) -> None:
    values = np.full((11, 5), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_instability(BATCHES, values, "oscillation", floor=FLOOR, tail_epochs=epochs)
    assert fit.shape == "inconclusive"
    assert np.isnan(fit.std).all()


# -- edges -----------------------------------------------------------------------------------------


def test_failed_runs_and_lone_runs_are_left_out() -> None:
    values = accuracies(np.random.default_rng(8), bowl(4))
    values[0, 1:] = np.nan
    values[5] = np.nan
    values[7, :3] = np.nan
    fit = fit_instability(BATCHES, values, "seeds", floor=FLOOR)
    kept = np.r_[1:5, 6:11]
    alone = fit_instability(BATCHES[kept], values[kept], "seeds", floor=FLOOR)
    assert np.isnan(fit.std[[0, 5]]).all()
    np.testing.assert_allclose(fit.std[kept], np.nanstd(values[kept], axis=1, ddof=1))
    assert fit.at[0] == pytest.approx(4)
    assert (fit.shape, fit.slope_low, fit.both_ends_p) == (
        alone.shape,
        alone.slope_low,
        alone.both_ends_p,
    )


@pytest.mark.parametrize("kind", ["seeds", "oscillation"])
def test_fewer_than_four_sizes_are_inconclusive(kind: Kind) -> None:
    values = np.abs(accuracies(np.random.default_rng(8), bowl(4)))
    values[3:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_instability(BATCHES, values, kind, floor=FLOOR, tail_epochs=9)
    assert fit.shape == "inconclusive"
    assert np.isnan([fit.slope_low, fit.slope_high, fit.both_ends_p, fit.trend_p]).all()
    assert fit.calmest is None
    assert np.isfinite(fit.std[:3]).all()
    assert np.isnan(fit.std[3:]).all()
    assert len(fit.at) == 200
    assert np.isnan(fit.fitted).all()


@pytest.mark.parametrize("kind", ["seeds", "oscillation"])
def test_variances_that_are_all_zero_stand_at_the_floor(kind: Kind) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_instability(BATCHES, np.zeros((11, 5)), kind, floor=FLOOR, tail_epochs=9)
    assert fit.shape == "even"
    assert fit.calmest is None
    assert (fit.std == 0).all()
    np.testing.assert_allclose(fit.fitted, FLOOR**0.5)


def test_variances_over_many_decades_fit_without_a_warning() -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        values = np.exp(random.normal(0, 4, (11, 1))) * random.standard_normal((11, 5))
        values[random.integers(11)] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = fit_instability(BATCHES, values, "seeds", floor=FLOOR)
        assert np.isfinite(fit.fitted).all()


def test_a_size_without_variance_counts_as_the_floor_and_its_std_stays_zero() -> None:
    values = accuracies(np.random.default_rng(1), falling(1))
    values[5] = 0.5
    fit = fit_instability(BATCHES, values, "seeds", floor=1e-4)
    raised = values.copy()
    raised[5] = 0.5 + 0.01 * np.array([-1, 1, -1, 1, 0])  # s^2 = 1e-4
    other = fit_instability(BATCHES, raised, "seeds", floor=1e-4)
    assert fit.std[5] == 0
    np.testing.assert_allclose(fit.fitted, other.fitted)
