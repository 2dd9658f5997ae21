"""Data sets together: what is pooled, and whether B changes accuracy alike in all."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from analysis.fits.together import Together, fit_together
from analysis.table.table import Curve
from tests.helpers.findings import a_curve

SIZES, SEEDS = 6, 5


def a_sloping_curve(name: str, slope: float, seed: int, **changed: object) -> Curve:
    """A curve that rises by `slope` from the smallest to the largest B, with noise."""
    noise = 0.03 * np.random.default_rng(seed).normal(size=(SIZES, SEEDS))
    accuracy = 0.4 + slope * np.linspace(0, 1, SIZES)[:, None] + noise
    return a_curve(SIZES, SEEDS, dataset=name, accuracy=accuracy, **changed)


def together(*curves: Curve) -> Together:
    return fit_together(curves, draws=100)


def test_two_data_sets_are_compared_by_welchs_t_test() -> None:
    curves = [a_sloping_curve("digits", 0.3, 1), a_sloping_curve("blood8", 0.2, 2)]
    found = together(*curves)
    assert found.datasets == ("digits", "blood8")
    lines = [np.polyfit(np.linspace(0, 1, SIZES), curve.accuracy, 1)[0] for curve in curves]
    assert found.changes == pytest.approx([line.mean() for line in lines])
    assert found.differ_p == pytest.approx(ttest_ind(*lines, equal_var=False).pvalue)


def test_equal_changes_differ_no_more_than_chance() -> None:
    p = [
        together(*(a_sloping_curve(str(i), 0.2, 10 * seed + i) for i in range(3))).differ_p
        for seed in range(30)
    ]
    assert np.mean(np.array(p) < 0.05) <= 5 / 30


def test_a_data_set_that_did_not_measure_oscillation_is_pooled_across_seeds_alone() -> None:
    short = a_sloping_curve("blood8", 0.2, 2, tail_epochs=2)
    found = together(a_sloping_curve("digits", 0.2, 1), short)
    assert found.seeds is not None
    assert found.oscillation is None


def test_a_data_set_whose_runs_are_equal_says_nothing_of_their_spread() -> None:
    equal = a_curve(SIZES, SEEDS, accuracy=np.full((SIZES, SEEDS), 0.3))
    found = together(a_sloping_curve("digits", 0.2, 1), equal)
    assert found.seeds is None
    assert np.isnan([found.differ_p, found.spread.differ_p, found.spread.factors[1]]).all()
    three = together(a_sloping_curve("a", 0.2, 1), a_sloping_curve("b", 0.2, 2), equal)
    assert three.seeds is not None


def test_three_sizes_are_too_few() -> None:
    def first_three(curve: Curve) -> Curve:
        cut = {"batches": curve.batches[:3], "accuracy": curve.accuracy[:3]}
        return a_curve(3, SEEDS, dataset=curve.dataset, **cut)

    found = together(*(first_three(a_sloping_curve(str(i), 0.2, i)) for i in range(2)))
    assert found.seeds is None
    assert found.oscillation is None
    assert found.says_something == np.isfinite(found.differ_p)


def test_a_change_spans_the_sizes_that_ran() -> None:
    """Half of the sizes failed: a line that went on to them would double the change."""
    curve = a_sloping_curve("digits", 0.3, 1)
    curve.accuracy[3:] = np.nan
    found = together(curve, a_sloping_curve("blood8", 0.2, 2))
    assert found.changes[0] == pytest.approx(0.3 * 2 / 5, abs=0.05)


def test_data_sets_with_enough_seeds_are_compared_without_the_others() -> None:
    sound = [a_sloping_curve("digits", 0.3, 1), a_sloping_curve("blood8", 0.1, 2)]
    weak = a_sloping_curve("flowers5", 0.2, 3)
    weak.accuracy[:, 1:] = np.nan
    found = together(*sound, weak)
    assert found.differ_p == together(*sound).differ_p < 0.05
    assert np.isnan(found.changes[2])
