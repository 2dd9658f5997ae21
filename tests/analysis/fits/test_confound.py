import re
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from analysis.fits.confound import Separation, separate
from analysis.table.table import Curve, Floats
from bigbatch_ue.runtime.errors import UserError

Truth = Callable[[Floats, Floats], Floats]
BATCHES = 2 ** np.arange(2, 11)
SEEDS = np.arange(5)


def nothing(x: Floats, t: Floats) -> Floats:
    return 0.5 + 0 * x


def by_steps(x: Floats, t: Floats) -> Floats:
    """Accuracy by log2 B and log2 T: a steep S in T, far from a parabola."""
    return 0.1 + 0.8 / (1 + np.exp(1.5 * (t - 8)))


def by_batch(x: Floats, t: Floats) -> Floats:
    return 0.2 + 0.05 * x


def by_half(x: Floats, t: Floats) -> Floats:
    return 0.5 + 0.03 * x - 0.03 * t


def curve(
    budget: str, steps: NDArray[np.int64], accuracy: Floats, seeds: NDArray[np.int64]
) -> Curve:
    return Curve(
        dataset="digits",
        arm="protected",
        budget=budget,
        lr_rule="none",
        scope="cluster",
        settings="",
        batches=BATCHES,
        seeds=seeds,
        steps=steps,
        accuracy=accuracy,
        oscillation=np.zeros_like(accuracy),
        critical=np.full_like(accuracy, np.nan),
        failed=np.isnan(accuracy).sum(axis=1),
        full=1024,
        clean=0.9,
        noise=0.8,
        chance=0.1,
        test_images=1000,
        tail_epochs=5,
    )


def sweep(
    truth: Truth, random: np.random.Generator, noise: float = 0.03, shared: bool = True
) -> tuple[Curve, Curve]:
    """Both budgets: 15,000 / B steps at equal epochs, else 400; each seed has its own level."""
    x = np.log2(BATCHES)
    levels = 0.03 * random.standard_normal(len(SEEDS))
    both = []
    for budget, steps in (
        ("epochs", np.ceil(15_000 / BATCHES).astype(np.int64)),
        ("steps", np.full(len(BATCHES), 400)),
    ):
        seeds = SEEDS
        if not shared and budget == "steps":
            levels, seeds = 0.03 * random.standard_normal(len(SEEDS)), SEEDS + 100
        accuracy = truth(x, np.log2(steps))[:, None] + levels
        accuracy = accuracy + noise * random.standard_normal(accuracy.shape)
        both.append(curve(budget, steps, accuracy, seeds))
    return both[0], both[1]


def separations(truth: Truth, count: int, shared: bool = True) -> list[Separation]:
    random = np.random.default_rng(1)
    return [separate(*sweep(truth, random, shared=shared), draws=200) for _ in range(count)]


def contains(interval: tuple[float, float] | None, value: float) -> bool:
    return interval is None or interval[0] <= value <= interval[1]


def lines(one: Curve) -> Floats:
    """Each seed's change along its straight line, by numpy's own fit."""
    x = np.log2(BATCHES)
    return np.polyfit(x, one.accuracy, 1)[0] * (x[-1] - x[0])


@pytest.mark.parametrize(("truth", "fraction"), [(by_steps, 1), (by_batch, 0), (by_half, 0.5)])
@pytest.mark.parametrize("shared", [True, False], ids=["pairs", "no pairs"])
def test_the_fraction_is_found_and_lies_in_its_interval_nineteen_times_of_twenty(
    truth: Truth, fraction: float, shared: bool
) -> None:
    found = separations(truth, 80, shared)
    assert np.median([one.share for one in found]) == pytest.approx(fraction, abs=0.03)
    assert 0.9 <= np.mean([contains(one.share_interval, fraction) for one in found]) < 1
    assert all(one.share_interval is not None for one in found)


def test_an_effect_of_steps_alone_is_attributed_to_steps() -> None:
    found = separations(by_steps, 60)
    assert max(one.steps_p for one in found) < 0.01
    assert max(one.difference_p for one in found) < 0.05
    assert np.mean([one.batch_p < 0.05 for one in found]) <= 0.13


def test_an_effect_of_batch_alone_is_attributed_to_batch() -> None:
    found = separations(by_batch, 60)
    assert max(one.batch_p for one in found) < 0.01
    assert np.mean([one.steps_p < 0.05 for one in found]) <= 0.13
    assert np.mean([one.difference_p < 0.05 for one in found]) <= 0.13


def test_without_an_effect_each_test_seldom_finds_one() -> None:
    """At 5 %, more than 8 of 60 are found once in a hundred times."""
    found = separations(nothing, 60)
    for field in ("batch_p", "steps_p", "difference_p"):
        assert np.mean([getattr(one, field) < 0.05 for one in found]) <= 0.13
    assert np.mean([one.share_interval is not None for one in found]) <= 0.13
    assert np.mean([contains(one.change_epochs_interval, 0) for one in found]) >= 0.87
    assert np.mean([contains(one.change_steps_interval, 0) for one in found]) >= 0.87


def test_seeds_with_slopes_of_their_own_seldom_make_steps_or_batch_matter() -> None:
    random = np.random.default_rng(5)
    x = np.linspace(-1, 1, len(BATCHES))[:, None]
    found = []
    for _ in range(60):
        both = [
            replace(one, accuracy=one.accuracy + 0.06 * x * random.standard_normal(len(SEEDS)))
            for one in sweep(nothing, random)
        ]
        found.append(separate(*both, draws=1000))
    for field in ("batch_p", "steps_p"):
        assert np.mean([getattr(one, field) < 0.05 for one in found]) <= 0.2


def test_small_effects_of_either_are_found() -> None:
    both = separations(lambda x, t: 0.2 + 0.012 * x - 0.03 * t, 40)
    assert np.mean([one.batch_p < 0.05 for one in both]) > 0.8
    both = separations(lambda x, t: 0.2 + 0.03 * x - 0.015 * t, 40)
    assert np.mean([one.steps_p < 0.05 for one in both]) > 0.8


def test_pairs_give_students_numbers() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    found = separate(epochs, steps)
    first, second = lines(epochs), lines(steps)
    assert found.change_epochs == pytest.approx(first.mean())
    assert found.change_steps == pytest.approx(second.mean())
    assert found.difference_p == pytest.approx(ttest_rel(first, second).pvalue)
    for interval, sample in (
        (found.change_epochs_interval, first),
        (found.change_steps_interval, second),
    ):
        assert interval == pytest.approx(tuple(ttest_1samp(sample, 0).confidence_interval()))


def test_the_fraction_at_the_ends_of_its_interval_is_just_not_rejected() -> None:
    """Fieller: the ends r are where the t-test of (1 - r) E - S = 0 has p = 5 %."""
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    found = separate(epochs, steps)
    assert found.share_interval is not None
    for end in found.share_interval:
        combined = (1 - end) * lines(epochs) - lines(steps)
        assert ttest_1samp(combined, 0).pvalue == pytest.approx(0.05)
    assert found.share == pytest.approx(1 - found.change_steps / found.change_epochs)


def test_seeds_that_are_not_shared_give_welchs_numbers() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0), shared=False)
    welch = ttest_ind(lines(epochs), lines(steps), equal_var=False)
    found = separate(epochs, steps)
    assert found.difference_p == pytest.approx(welch.pvalue)
    assert "(difference p" in found.statement


@pytest.mark.parametrize(("common", "kind"), [(2, "(paired difference"), (1, "(difference")])
def test_two_common_seeds_are_pairs_and_one_is_not(common: int, kind: str) -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    found = separate(epochs, replace(steps, seeds=SEEDS + 5 - common))
    assert kind in found.statement


def test_a_run_of_both_budgets_shows_no_difference() -> None:
    epochs, _ = sweep(by_half, np.random.default_rng(0))
    found = separate(epochs, replace(epochs, budget="steps"), draws=200)
    assert found.steps_p == found.difference_p == 1
    assert found.batch_p < 0.05


def test_a_bend_that_lines_miss_is_found_by_the_smooth_tests() -> None:
    found = separate(*sweep(lambda x, t: 0.3 + 0.02 * (x - 6) ** 2, np.random.default_rng(0)))
    assert contains(found.change_epochs_interval, 0)
    assert (
        "No change is shown at equal epochs, so it is not said how much goes with fewer steps."
        in found.statement
    )
    assert found.statement.endswith("at a given number of steps, B matters (p < 0.001).")
    assert "At a given B, the number of steps is not shown to matter (p" in found.statement


def test_the_statement_says_the_adjusted_p_values() -> None:
    found = separate(*sweep(by_half, np.random.default_rng(0)))
    assert found.adjusted == (found.difference_p, found.batch_p, found.steps_p)
    said = replace(found, adjusted=(0.9, 0.8, 0.7)).statement
    assert "(paired difference p = 0.9)" in said
    assert "the number of steps is not shown to matter (p = 0.7)" in said
    assert "B is not shown to matter (p = 0.8)" in said
    scaled = replace(found, lr_rule="linear", adjusted=(0.9, 0.01, 0.7)).statement
    assert scaled.endswith("steps, B, with its learning rate, matters (p = 0.01).")


def test_missing_cells_leave_both_budgets_and_thin_seeds_leave_the_pairs() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0), noise=0)
    epochs.accuracy[2, 0] = np.nan
    steps.accuracy[5, 0] = np.nan
    epochs.accuracy[3:, 1] = np.nan  # three sizes left, a quarter of the range
    epochs.accuracy[:3, 1] = [0, 0.5, 1]
    steps.accuracy[1:-1, 2] = np.nan  # two sizes left
    steps.accuracy[0, 2] = 1
    found = separate(epochs, steps)
    assert found.change_epochs == pytest.approx(0.06 * 8, abs=0.005)  # steps are whole
    assert found.change_steps == pytest.approx(0.03 * 8)
    assert found.share == pytest.approx(0.5, abs=0.01)


def test_a_bent_effect_with_missing_cells_is_compared_on_the_same_cells() -> None:
    epochs, steps = sweep(lambda x, t: 0.01 * x**2, np.random.default_rng(0), noise=0)
    epochs.accuracy[-3:, :2] = np.nan
    found = separate(epochs, steps)
    assert found.change_epochs == pytest.approx(found.change_steps)
    assert found.difference_p > 0.9


def test_only_common_sizes_are_compared() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    cut = replace(steps, batches=BATCHES[2:], steps=steps.steps[2:], accuracy=steps.accuracy[2:])
    cut.accuracy[-1] = np.nan
    found = separate(epochs, cut)
    np.testing.assert_array_equal(found.batches, BATCHES[2:-1])
    assert (found.smallest, found.largest) == (16, 512)
    x = np.log2(BATCHES[2:-1])
    expected = np.polyfit(x, epochs.accuracy[2:-1], 1)[0] * 5
    assert found.change_epochs == pytest.approx(expected.mean())


@pytest.mark.parametrize("left", [0, 2])
def test_fewer_than_three_common_sizes_are_refused_in_one_line(left: int) -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    steps.accuracy[left:] = np.nan
    with pytest.raises(UserError, match=rf"{left} effective batch(es)? common to both budgets"):
        separate(epochs, steps)


def test_a_single_seed_is_refused_in_one_line() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    steps.accuracy[:, 1:] = np.nan
    with pytest.raises(UserError, match="fewer than 2 seeds") as error:
        separate(epochs, steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shared", [True, False], ids=["pairs", "no pairs"])
def test_runs_without_any_noise_do_not_crash(shared: bool) -> None:
    epochs, steps = sweep(nothing, np.random.default_rng(0), noise=0, shared=shared)
    flat = [replace(one, accuracy=np.full_like(one.accuracy, 0.5)) for one in (epochs, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = separate(*flat)
    assert found.difference_p == 1
    assert np.isnan(found.share)
    assert found.share_interval is None


def test_the_statement_of_an_effect_of_steps() -> None:
    epochs, steps = sweep(lambda x, t: 1 - 0.05 * t, np.random.default_rng(3))
    found = separate(epochs, steps)
    assert found.dataset == "digits, protected"
    number = r"-?\d+\.\d"
    change = rf"[-+]\d+\.\d points \[{number}, {number}\]"
    assert re.fullmatch(
        rf"From B = 4 to 1,024, straight lines through the runs of each seed change by {change} at "
        rf"equal epochs and by {change} at "
        r"equal optimizer steps \(paired difference p < 0\.001\)\. Of the effect of B, "
        r"\d+ % \[\d+, \d+\] goes with fewer steps\. At a given B, the number of steps matters "
        r"\(p < 0\.001\); at a given number of steps, B is not shown to matter \(p = 0\.\d+\)\.",
        found.statement,
    )


def test_the_statement_of_an_effect_of_batch_says_the_fraction_may_be_zero() -> None:
    found = separate(*sweep(by_batch, np.random.default_rng(3)))
    assert re.search(
        r"of the effect that goes with fewer steps is -?\d+ % \[-\d+, \d+\]; adjusted for the "
        r"number of tests, it may be zero\.",
        found.statement,
    )


def test_the_numbers_of_the_statement_are_percentage_points() -> None:
    epochs, steps = sweep(by_half, np.random.default_rng(0))
    found = separate(epochs, steps)
    low, high = (100 * end for end in found.change_epochs_interval)
    assert (
        f"by {100 * found.change_epochs:+.1f} points [{low:.1f}, {high:.1f}] at equal epochs"
        in (found.statement)
    )


def test_a_fraction_that_few_seeds_cannot_bound_is_not_given() -> None:
    """Two seeds at equal steps leave Welch's test about one degree of freedom."""
    epochs, steps = sweep(by_batch, np.random.default_rng(0), shared=False)
    x = np.linspace(0, 0.1, len(BATCHES))[:, None]
    epochs = replace(epochs, accuracy=x * np.array([1.5, 1.8, 2, 2.2, 2.5]))
    steps = replace(steps, accuracy=x * np.array([-9, 9.0]), seeds=steps.seeds[:2])
    found = separate(epochs, steps)
    assert not contains(found.change_epochs_interval, 0)
    assert found.share_interval is None
    assert (
        "The fraction of the effect that goes with fewer steps cannot be bounded."
        in found.statement
    )
