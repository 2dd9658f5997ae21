"""The curve between and through noisy means."""

import numpy as np
import pytest

from analysis.fits.curve import draw_curves
from tests.analysis.simulator import SHAPES

X = np.arange(4.0, 12.0)
AT = np.linspace(4, 11, 57)


def drawn(means: np.ndarray, std: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    covariance = np.broadcast_to(std**2 * np.eye(len(X)), (800, len(X), len(X)))
    return draw_curves(X, means, covariance, AT, np.random.default_rng(seed))


def test_curves_go_through_means_without_noise() -> None:
    means = 0.3 + 0.3 * SHAPES["skewed valley"](np.linspace(0, 1, len(X)))
    sizes, curves = drawn(means, 1e-4)
    np.testing.assert_allclose(sizes.mean(0), means, atol=5e-4)
    np.testing.assert_allclose(curves[:, ::8].mean(0), means, atol=5e-4)


def test_a_straight_line_stays_one() -> None:
    _, curves = drawn(np.linspace(0.3, 0.6, len(X)), 0.02)
    np.testing.assert_allclose(curves.mean(0), np.linspace(0.3, 0.6, len(AT)), atol=0.01)


@pytest.mark.parametrize("shape", ["slope", "U", "two valleys", "V in the middle"])
def test_the_truth_lies_in_the_band(shape: str) -> None:
    random = np.random.default_rng(2)
    inside = []
    for seed in range(60):
        truth = 0.3 + 0.2 * SHAPES[shape](np.linspace(0, 1, len(X)))
        sizes, _ = drawn(truth + random.normal(0, 0.03, len(X)), 0.03, seed)
        low, high = np.quantile(sizes, [0.025, 0.975], axis=0)
        inside.append((low <= truth) & (truth <= high))
    assert np.mean(inside) > 0.9


def test_the_band_is_widest_between_sizes() -> None:
    means = 0.3 + 0.2 * SHAPES["U"](np.linspace(0, 1, len(X)))
    _, curves = drawn(means, 0.005)
    width = curves.std(0)
    assert width[4::8].mean() > 1.2 * width[::8].mean()


def test_one_seed_gives_the_same_curves() -> None:
    means = np.linspace(0.3, 0.6, len(X))
    np.testing.assert_array_equal(drawn(means, 0.02)[1], drawn(means, 0.02)[1])
