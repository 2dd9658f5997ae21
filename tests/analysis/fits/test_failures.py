"""Runs that leave the images unprotected: how many, and whether their number follows B."""

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.fits.failures import count_unprotected
from analysis.table.table import Curve
from tests.analysis.simulator import Floats
from tests.helpers.findings import a_curve

CLEAN, MARGIN = 0.9, 0.05


def a_failing_curve(chance: Floats, seed: int) -> tuple[Curve, NDArray[np.bool_]]:
    """A curve of five seeds whose runs are unprotected with probability `chance` [k]: which are."""
    random = np.random.default_rng(seed)
    failing = random.random((len(chance), 5)) < chance[:, None]
    accuracy = np.where(failing, CLEAN - 0.01, 0.4) + random.uniform(-0.02, 0.02, failing.shape)
    return a_curve(len(chance), 5, accuracy=accuracy, clean=CLEAN), failing


def test_runs_within_the_margin_of_clean_ones_are_counted_by_size() -> None:
    curve, failing = a_failing_curve(np.linspace(0, 1, 8), 0)
    found = count_unprotected([curve], MARGIN)
    assert found is not None
    assert [size.count for size in found.sizes] == failing.sum(1).tolist()
    assert (found.total.count, found.total.runs) == (failing.sum(), 40)
    assert found.rises
    assert found.trend_p < 0.01


def test_fewer_at_a_larger_b_is_a_falling_trend() -> None:
    found = count_unprotected([a_failing_curve(np.linspace(1, 0, 8), 0)[0]], MARGIN)
    assert found is not None
    assert not found.rises
    assert found.trend_p < 0.01


def test_without_a_trend_it_is_seldom_found() -> None:
    p = []
    for seed in range(40):
        found = count_unprotected([a_failing_curve(np.full(8, 0.3), seed)[0]], MARGIN)
        assert found is not None
        p.append(found.trend_p)
    assert np.mean(np.array(p) < 0.05) <= 6 / 40


def test_data_sets_together_show_a_trend_that_is_too_weak_in_each() -> None:
    """In each, another share of the runs fails."""
    alone, together = [], []
    for seed in range(20):
        curves = [
            a_failing_curve(level * np.linspace(0.3, 1.7, 8), 4 * seed + place)[0]
            for place, level in enumerate((0.1, 0.2, 0.3, 0.5))
        ]
        pooled = count_unprotected(curves, MARGIN)
        assert pooled is not None
        assert pooled.sizes == ()
        assert pooled.total.runs == 160
        together.append(pooled.trend_p < 0.05 and pooled.rises)
        single = count_unprotected(curves[1:2], MARGIN)
        assert single is not None
        alone.append(single.trend_p < 0.05 and single.rises)
    assert np.mean(together) >= np.mean(alone) + 0.3


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_where_none_or_all_are_unprotected_no_trend_is_tested(chance: float) -> None:
    found = count_unprotected([a_failing_curve(np.full(8, chance), 0)[0]], MARGIN)
    assert found is not None
    assert np.isnan(found.trend_p)


def test_without_clean_images_nothing_is_counted() -> None:
    curve, _ = a_failing_curve(np.full(8, 0.5), 0)
    unknown = a_curve(8, 5, accuracy=curve.accuracy, clean=np.nan)
    assert count_unprotected([curve, unknown], MARGIN) is None
