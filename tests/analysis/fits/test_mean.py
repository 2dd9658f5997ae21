"""Fits of the mean against simulated truths."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.defaults import MARGIN
from analysis.fits.mean import MeanFit, fit_mean
from bigbatch_ue.runtime.errors import UserError
from tests.analysis.simulator import (
    NOISES,
    SHAPES,
    Design,
    Floats,
    Shape,
    first_gap,
    holes,
    largest_noisier,
    last_gap,
    normal,
    slopes,
    v_at,
)

SEVEN = Design(7, 5)


def fit_all(design: Design, shape: Shape, depth: float, count: int, seed: int = 1) -> list[MeanFit]:
    random = np.random.default_rng(seed)
    data = [design.accuracy(shape, depth, random) for _ in range(count)]
    return [fit_mean(design.batches, one, draws=400, seed=i) for i, one in enumerate(data)]


@cache
def flat(noise: str, count: int = 60) -> list[MeanFit]:
    return fit_all(Design(7, 5, noise=NOISES[noise]), SHAPES["flat"], 0, count)


def share(fits: list[MeanFit], claim: Callable[[MeanFit], bool]) -> float:
    return float(np.mean([claim(fit) for fit in fits]))


def is_effect(fit: MeanFit) -> bool:
    return fit.verdict == "effect"


def covers(fit: MeanFit, design: Design, shape: Shape) -> bool:
    """Whether the interval holds a place that is as good as the best."""
    z = np.linspace(0, 1, 2001)
    best = z[shape(z) <= shape(z).min() + 0.005]
    low, high = (design.z(end) for end in fit.interval)
    return bool(np.any((best >= low - 1e-9) & (best <= high + 1e-9)))


# -- what the claims promise ---------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["normal", "Student's t, 3 df", "one run in 20 fails"])
def test_a_flat_curve_seldom_shows_an_effect(noise: str) -> None:
    """At 5 %, more than 8 of 60 are found once in a hundred times."""
    assert share(flat(noise), is_effect) <= 8 / 60


@pytest.mark.parametrize("noise", [largest_noisier(2), slopes(3)])
def test_seeds_and_sizes_that_differ_in_their_noise_seldom_show_an_effect(
    noise: Callable[..., Floats],
) -> None:
    fits = fit_all(Design(8, 5, noise=noise), SHAPES["flat"], 0, 60)
    assert share(fits, is_effect) <= 9 / 60


@pytest.mark.parametrize("shape", ["slope", "U", "one narrow valley", "two valleys"])
def test_effects_of_every_shape_are_found(shape: str) -> None:
    fits = fit_all(Design(9, 5), SHAPES[shape], 0.2, 30)
    assert share(fits, is_effect) >= 0.8


@pytest.mark.parametrize(
    ("design", "shape", "depth"),
    [
        (SEVEN, first_gap(7), 0.3),
        (SEVEN, last_gap(7), 0.3),
        (Design(9, 10, std=0.03), first_gap(9), 0.2),
        (Design(9, 10, std=0.03), SHAPES["skewed valley"], 0.2),
        (Design(9, 10, std=0.03), SHAPES["two valleys"], 0.2),
        (Design(4, 5, std=0.05), v_at(0.8), 0.4),
        (Design(7, 5, noise=holes), SHAPES["U"], 0.3),
    ],
)
def test_the_interval_holds_the_best_batch(design: Design, shape: Shape, depth: float) -> None:
    """Of 40 intervals of 95 %, fewer than 34 hold it once in a hundred times."""
    fits = fit_all(design, shape, depth, 40)
    found = [fit for fit in fits if is_effect(fit)]
    assert len(found) >= 30
    assert share(found, lambda fit: covers(fit, design, shape)) >= 0.85


def test_sizes_are_seldom_called_equivalent_though_two_differ_by_the_margin() -> None:
    """The worst case: a step of just the margin, at a noise that the test could see through."""
    precise = Design(7, 5, std=0.01)
    fits = fit_all(precise, SHAPES["step"], MARGIN, 200)
    assert share(fits, lambda fit: fit.verdict == "equivalent") <= 0.07
    fits = fit_all(precise, SHAPES["flat"], 0, 40)
    assert share(fits, lambda fit: fit.verdict == "equivalent") >= 0.9


def test_sizes_that_are_as_good_are_within_the_margin_of_the_best() -> None:
    for shape in ("V at 0.8", "U"):
        truth = 0.1 * SHAPES[shape](np.linspace(0, 1, 7))
        wrong = 0
        for fit in fit_all(SEVEN, SHAPES[shape], 0.1, 60):
            listed = truth[np.isin(SEVEN.batches, fit.as_good)]
            wrong += bool(np.any(listed > truth.min() + MARGIN))
        assert wrong <= 6


def test_without_an_effect_shown_the_recommended_size_costs_little() -> None:
    """A weak U in much noise: what the recommended size loses, against the lowest mean's loss."""
    random = np.random.default_rng(4)
    data = [SEVEN.accuracy(SHAPES["U"], 0.05, random) for _ in range(100)]
    truth = 0.05 * SHAPES["U"](np.linspace(0, 1, 7))
    fits = [fit_mean(SEVEN.batches, one, draws=300) for one in data]
    own = [truth[SEVEN.batches.tolist().index(fit.lowest)] for fit in fits]
    lowest = [truth[one.mean(1).argmin()] for one in data]
    assert np.mean(own) <= np.mean(lowest) + 0.003


def test_level_and_band_hold_the_truth() -> None:
    inside, level = [], []
    for fit in fit_all(SEVEN, SHAPES["U"], 0.2, 60):
        z = np.array([SEVEN.z(batch) for batch in fit.at])
        truth = 0.35 + 0.2 * SHAPES["U"](z)
        inside.append((fit.low <= truth) & (truth <= fit.high))
        at_optimum = 0.35 + 0.2 * float(SHAPES["U"](np.array(SEVEN.z(fit.optimum))))
        level.append(fit.best_interval[0] <= at_optimum <= fit.best_interval[1])
    assert np.mean(inside) >= 0.9
    assert np.mean(level) >= 0.87


# -- verdicts, edges, sizes ----------------------------------------------------------------------


def fit_exact(shape: str, batches: NDArray[np.int64] = SEVEN.batches, **options: float) -> MeanFit:
    """Fit four equal runs at each size."""
    truth = 0.3 + 0.3 * SHAPES[shape](np.linspace(0, 1, len(batches)))
    return fit_mean(batches, np.repeat(truth[:, None], 4, 1), draws=300, **options)


@pytest.mark.parametrize(
    ("shape", "edge", "optimum"),
    [("slope", "smallest", 16), ("U", "none", 128), ("one narrow valley", "none", 118)],
)
def test_the_edge_that_the_interval_reaches_is_named(shape: str, edge: str, optimum: float) -> None:
    fit = fit_exact(shape)
    assert (fit.verdict, fit.edge) == ("effect", edge)
    assert fit.optimum == pytest.approx(optimum, rel=0.25)
    assert fit.interval[0] <= fit.optimum <= fit.interval[1]


def test_a_curve_that_falls_to_the_largest_size_may_fall_beyond_it() -> None:
    truth = np.linspace(0.6, 0.3, 7)[:, None]
    fit = fit_mean(SEVEN.batches, np.repeat(truth, 4, 1), draws=300)
    assert (fit.edge, fit.lowest) == ("largest", 1024)
    hill = 0.3 + 0.3 * (1 - SHAPES["U"](np.linspace(0, 1, 7)))
    fit = fit_mean(SEVEN.batches, np.repeat(hill[:, None], 4, 1), draws=300)
    assert fit.edge == "both"


def test_with_few_sizes_and_at_the_ends_an_interval_is_no_finer_than_the_sizes() -> None:
    few = SEVEN.batches[:4]
    for end in fit_exact("V in the middle", few).interval:
        assert end in few
    assert fit_exact("slope").interval == (16, 32)
    truth = np.array([0.4, 0.3, 0.45, 0.5, 0.55, 0.6, 0.65])[:, None]
    second = fit_mean(SEVEN.batches, np.repeat(truth, 4, 1), draws=300)
    assert second.interval[0] == 16 < second.optimum
    last_but_one = fit_mean(SEVEN.batches, np.repeat(truth[::-1], 4, 1), draws=300)
    assert last_but_one.interval[1] == 1024 > last_but_one.optimum


def test_the_margin_decides_what_is_as_good_and_equivalent() -> None:
    truth = 0.3 + 0.05 * SHAPES["U"](np.linspace(0, 1, 7))
    data = np.repeat(truth[:, None], 4, 1)
    narrow, wide = (fit_mean(SEVEN.batches, data, draws=300, margin=m) for m in (0.01, 0.1))
    assert (narrow.verdict, narrow.as_good) == ("effect", (64, 128, 256))
    assert (wide.verdict, wide.as_good) == ("equivalent", tuple(SEVEN.batches.tolist()))


def test_an_effect_after_adjustment_only_is_claimed() -> None:
    fit = fit_exact("U")
    assert fit.adjusted_p == fit.flat_p
    assert replace(fit, adjusted_p=0.2).verdict == "cannot tell"


def test_equal_runs_are_equivalent_at_any_level() -> None:
    for level in (0.0, 0.37, 1.0):
        fit = fit_mean(SEVEN.batches, np.full((7, 4), level), draws=300)
        assert (fit.verdict, fit.flat_p) == ("equivalent", 1)
        assert fit.as_good == tuple(SEVEN.batches.tolist())
        assert fit.best == pytest.approx(level, abs=0.002)
        assert 0 <= fit.low.min() <= fit.high.max() <= 1


def test_a_valley_is_told_from_a_slope() -> None:
    assert fit_exact("U").valley_p < 0.01
    assert fit_exact("slope").valley_p > 0.2


# -- seeds, noise, holes -------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [normal, holes])
def test_effects_of_shared_seeds_move_the_level_and_nothing_else(
    noise: Callable[..., Floats],
) -> None:
    data = Design(7, 5, noise=noise).accuracy(SHAPES["U"], 0.2, np.random.default_rng(1))
    effects = np.array([0.1, -0.05, 0.02, 0.08, 0.0])
    plain, moved = (fit_mean(SEVEN.batches, one, draws=300) for one in (data, data + effects))
    assert moved.flat_p == pytest.approx(plain.flat_p)
    assert moved.interval == pytest.approx(plain.interval)
    np.testing.assert_allclose(moved.mean - plain.mean, effects.mean(), atol=1e-6)


def test_seeds_in_common_make_the_interval_narrower() -> None:
    design = Design(7, 5, std=0.04, seed_std=0.15)
    data = design.accuracy(SHAPES["U"], 0.2, np.random.default_rng(2))
    alone = np.full((7, 35), np.nan)
    for size in range(7):
        alone[size, 5 * size : 5 * size + 5] = data[size]
    paired, apart = (fit_mean(design.batches, one, draws=400) for one in (data, alone))
    assert paired.difference < 0.8 * apart.difference


def test_the_curve_spans_the_sizes_and_one_seed_gives_one_answer() -> None:
    data = SEVEN.accuracy(SHAPES["U"], 0.2, np.random.default_rng(3))
    first, again, other = (fit_mean(SEVEN.batches, data, draws=200, seed=s) for s in (3, 3, 4))
    assert (first.at[0], first.at[-1]) == (16, 1024)
    assert (first.low <= first.mean).all()
    assert (first.mean <= first.high).all()
    np.testing.assert_array_equal(first.high, again.high)
    assert (first.high != other.high).any()


def test_uneven_sizes_and_few_runs_are_fine() -> None:
    batches = np.array([3, 5, 40, 3000])
    values = np.array([[0.5, 0.6], [0.6, np.nan], [0.3, 0.45], [0.6, 0.65]])
    fit = fit_mean(batches, values, draws=200)
    assert fit.lowest == 40
    assert {round(end) for end in fit.interval} <= set(batches.tolist())
    with pytest.raises(UserError, match="at least 3"):
        fit_mean(batches[:2], values[:2])
