"""Draws of what the noise of runs may be."""

import numpy as np
import pytest

from analysis.fits.runs import TwoWay, successful_runs
from analysis.fits.seed_noise import MIN_STD, NoiseDraws, draw_noise
from tests.analysis.simulator import SHAPES, Design, largest_noisier, slopes


def noise_of(design: Design, seed: int = 0, draws: int = 1000) -> tuple[TwoWay, NoiseDraws]:
    random = np.random.default_rng(seed)
    values = design.accuracy(SHAPES["flat"], 0, random)
    fit = TwoWay(successful_runs(design.batches, values))
    return fit, draw_noise(fit, draws, random)


def test_draws_are_of_the_size_of_the_noise() -> None:
    """Forty seeds tell the noise well: 0.08 for a run, 0.08 / sqrt(40) for a mean."""
    _, noise = noise_of(Design(6, 40))
    np.testing.assert_allclose(noise.std, 0.08, rtol=0.25)
    np.testing.assert_allclose(noise.errors.std(0), 0.08 / np.sqrt(40), rtol=0.35)
    root = np.sqrt(np.diagonal(noise.covariance, axis1=1, axis2=2).mean(0))
    np.testing.assert_allclose(root, noise.errors.std(0), rtol=0.1)


def test_the_noise_of_each_size_is_its_own() -> None:
    _, noise = noise_of(Design(6, 20, noise=largest_noisier(6)))
    assert noise.std[-1] > 3 * noise.std[:-1].max()


def test_slopes_of_seeds_correlate_the_errors_of_neighbours() -> None:
    fit, noise = noise_of(Design(6, 20, noise=slopes(3)))
    correlation = np.corrcoef(noise.errors.T)
    assert correlation[0, 1] > 0.4
    assert correlation[0, -1] < 0
    slope = fit.runs.x - fit.runs.x.mean()
    _, plain = noise_of(Design(6, 20))
    assert (noise.errors @ slope).std() > 3 * (plain.errors @ slope).std()


def test_few_seeds_leave_the_noise_uncertain() -> None:
    spread = [noise_of(Design(6, n))[1].covariance[:, 0, 0] * n for n in (3, 30)]
    few, many = (np.quantile(one, 0.95) / np.quantile(one, 0.05) for one in spread)
    assert few > 2 * many


def test_the_level_is_as_uncertain_as_the_mean_of_its_seeds() -> None:
    """Student's t of the levels of the seeds, which the shape of the curve does not depend on."""
    fit, noise = noise_of(Design(6, 5, seed_std=0.3))
    levels = fit.to_effects @ fit.runs.values
    low, high = np.quantile(noise.level, [0.025, 0.975])
    half = 2.776 * levels.std(ddof=1) / np.sqrt(5)
    assert (low, high) == pytest.approx((-half, half), rel=0.2)
    alone = np.full((3, 6), np.nan)
    for size in range(3):
        alone[size, 2 * size : 2 * size + 2] = [0.2, 0.3]
    once = TwoWay(successful_runs(np.array([8, 16, 32]), alone))
    assert not draw_noise(once, 100, np.random.default_rng(0)).level.any()


def test_equal_runs_have_the_smallest_noise() -> None:
    fit = TwoWay(successful_runs(np.array([8, 16, 32]), np.full((3, 4), 0.5)))
    noise = draw_noise(fit, 200, np.random.default_rng(0))
    assert np.isfinite(noise.errors).all()
    assert noise.std.max() < 5 * MIN_STD


def test_one_seed_gives_the_same_draws() -> None:
    first, again, other = (noise_of(Design(6, 5), seed)[1].errors for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
