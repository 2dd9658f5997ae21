"""Tests of the shape of a curve."""

import numpy as np
import pytest

from analysis.fits.contrasts import SmoothTest, trend, valley_p
from tests.analysis.simulator import SHAPES

X = np.arange(4.0, 12.0)
ERRORS = np.random.default_rng(0).normal(0, 0.03, (4000, len(X)))
FRESH = np.random.default_rng(1).normal(0, 0.03, (4000, len(X)))


def test_p_values_of_a_flat_curve_are_even() -> None:
    p = SmoothTest(X, ERRORS).p(FRESH)
    for level in (0.01, 0.05, 0.5):
        assert np.mean(p < level) == pytest.approx(level, abs=3 * np.sqrt(level / 4000) + 0.002)


@pytest.mark.parametrize("shape", ["slope", "U", "one narrow valley", "two valleys", "step"])
def test_shapes_of_every_kind_are_found(shape: str) -> None:
    curve = 0.2 * SHAPES[shape](np.linspace(0, 1, len(X)))
    assert np.mean(SmoothTest(X, ERRORS).p(FRESH[:500] + curve) < 0.05) > 0.9


def test_the_level_of_a_curve_does_not_matter() -> None:
    test = SmoothTest(X, ERRORS)
    np.testing.assert_allclose(test.p(FRESH[:20] + 0.4), test.p(FRESH[:20]))


def test_three_sizes_are_enough() -> None:
    test = SmoothTest(X[:3], ERRORS[:, :3])
    assert test.p(np.array([[0.3, 0.5, 0.7]]))[0] < 0.001
    assert test.p(np.array([[0.5, 0.5, 0.5]]))[0] == 1


def test_what_is_detectable_is_found_in_80_per_cent() -> None:
    test = SmoothTest(X, ERRORS)
    line = test.detectable * np.linspace(0, 1, len(X))
    assert np.mean(test.p(FRESH + line) < 0.05) == pytest.approx(0.8, abs=0.03)
    assert SmoothTest(X, 3 * ERRORS).detectable == pytest.approx(3 * test.detectable, rel=0.05)


def test_a_trend_is_the_slope_per_doubling() -> None:
    slope, p = trend(X, 0.3 - 0.02 * X, ERRORS)
    assert slope == pytest.approx(-0.02)
    assert p < 0.001
    p_values = [trend(X, one, ERRORS)[1] for one in FRESH[:1000]]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("shape", "is_valley"),
    [("U", True), ("skewed valley", True), ("slope", False), ("step", False)],
)
def test_only_a_curve_that_falls_and_rises_is_a_valley(shape: str, is_valley: bool) -> None:
    curve = 0.3 * SHAPES[shape](np.linspace(0, 1, len(X)))
    found = np.mean([valley_p(X, one + curve, ERRORS) < 0.05 for one in FRESH[:300]])
    assert found > 0.8 if is_valley else found < 0.07


def test_a_hill_is_no_valley() -> None:
    assert valley_p(X, -((X - X.mean()) ** 2) / 50, ERRORS) > 0.9


def test_a_flat_curve_is_seldom_a_valley() -> None:
    assert np.mean([valley_p(X, one, ERRORS) < 0.05 for one in FRESH[:300]]) < 0.06
