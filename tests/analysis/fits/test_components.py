import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from analysis.fits.components import Components, Spread, fit_components
from bigbatch_ue.runtime.errors import UserError

BATCHES = 2 ** np.arange(2, 10)
TRUE = {"seed": 0.06, "run": 0.05, "target": 0.04}
REPLICATIONS = 100


def simulate(
    random: np.random.Generator,
    *,
    seeds: int = 5,
    targets: int = 3,
    missing: float = 0.0,
    seed: float = TRUE["seed"],
    run: float = TRUE["run"],
    target: float = TRUE["target"],
) -> pd.DataFrame:
    """Rows of crossed seeds, of which a share has failed, around a mean that falls with B."""
    sizes = len(BATCHES)
    size, own, other = (axis.ravel() for axis in np.indices((sizes, seeds, targets)))
    accuracy = 0.6 - 0.02 * size
    accuracy = accuracy + seed * random.normal(size=seeds)[own]
    accuracy += run * random.normal(size=(sizes, seeds))[size, own]
    accuracy += target * random.normal(size=len(size))
    failed = random.random(len(size)) < missing
    columns = {"effective_batch": BATCHES[size], "seed": own + 3, "target_seed": other}
    known = np.where(failed, random.choice([np.nan, 0.0], len(size)), accuracy)
    return pd.DataFrame({**columns, "final_accuracy": known, "failed": failed})


def spread(std: float) -> Spread:
    return Spread(std, std / 2, std * 2)


def components(seed: float, run: float, target: float, targets_per_run: int = 2) -> Components:
    return Components(
        seed=spread(seed),
        run=spread(run),
        target=spread(target),
        run_and_target=spread(float(np.hypot(run, target))),
        sizes=8,
        seeds=5,
        runs=40,
        targets=40 * targets_per_run,
        targets_per_run=targets_per_run,
        same_seed=False,
    )


def single(seed: float, rest: float) -> Components:
    """Components of runs with one target each."""
    both = components(seed, rest, 0, targets_per_run=1)
    return replace(both, run=None, target=None)


# -- the estimates -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_estimates_are_right_on_average_and_intervals_cover(missing: float) -> None:
    random = np.random.default_rng(4)
    found = [fit_components(simulate(random, missing=missing)) for _ in range(REPLICATIONS)]
    for name, true in TRUE.items():
        parts = [getattr(each, name) for each in found]
        variances = np.array([part.variance for part in parts])
        error = variances.std(ddof=1) / np.sqrt(REPLICATIONS)
        assert variances.mean() == pytest.approx(true**2, abs=3 * error), name
        covered = np.mean([part.low <= true <= part.high for part in parts])
        assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / REPLICATIONS), name
        assert all(part.low <= part.std <= part.high for part in parts)


def test_a_balanced_design_gives_the_restricted_maximum_likelihood_of_statsmodels() -> None:
    rows = simulate(np.random.default_rng(1))
    model = MixedLM.from_formula(
        "final_accuracy ~ C(effective_batch)",
        rows,
        groups="seed",
        re_formula="1",
        vc_formula={"run": "0 + C(effective_batch)"},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.fit(reml=True)
    found = fit_components(rows)
    assert found.run is not None
    assert found.target is not None
    assert found.seed.variance == pytest.approx(expected.cov_re.iloc[0, 0], rel=1e-2)
    assert found.run.variance == pytest.approx(expected.vcomp[0], rel=1e-2)
    assert found.target.variance == pytest.approx(expected.scale, rel=1e-2)


@pytest.mark.parametrize("absent", TRUE)
def test_a_part_that_is_absent_is_small_and_its_interval_reaches_zero(absent: str) -> None:
    random = np.random.default_rng(1)
    none = {absent: 0.0}
    found = [fit_components(simulate(random, missing=0.1, **none)) for _ in range(50)]
    parts = [getattr(each, absent) for each in found]
    assert np.mean([part.low == 0 for part in parts]) >= 0.9
    assert np.median([part.std for part in parts]) < 0.02
    if absent != "target":
        assert all(part.high > 0 for part in parts), "that it is absent is never certain"


def test_one_target_for_each_run_leaves_run_and_target_together() -> None:
    random = np.random.default_rng(2)
    found = [fit_components(simulate(random, targets=1, missing=0.1)) for _ in range(REPLICATIONS)]
    assert {(each.run, each.target, each.targets_per_run) for each in found} == {(None, None, 1)}
    rest = np.array([each.run_and_target.variance for each in found])
    seed = np.array([each.seed.variance for each in found])
    both = TRUE["run"] ** 2 + TRUE["target"] ** 2
    for variances, true in ((rest, both), (seed, TRUE["seed"] ** 2)):
        error = variances.std(ddof=1) / np.sqrt(REPLICATIONS)
        assert variances.mean() == pytest.approx(true, abs=3 * error)
    covered = np.mean([e.run_and_target.low**2 <= both <= e.run_and_target.high**2 for e in found])
    assert covered >= 0.9


def test_a_few_runs_with_two_targets_tell_them_apart() -> None:
    rows = simulate(np.random.default_rng(5), targets=2)
    rows = rows[(rows["target_seed"] == 0) | (rows["effective_batch"] <= 8)]
    found = fit_components(rows)
    assert (found.sizes, found.seeds, found.runs, found.targets) == (8, 5, 40, 50)
    assert found.targets_per_run == pytest.approx(40 / (30 + 10 / 2))
    assert found.run is not None
    assert found.target is not None
    assert 0 < found.target.low < TRUE["target"] < found.target.high


def test_targets_with_the_seeds_of_their_runs_are_recognised() -> None:
    rows = simulate(np.random.default_rng(9), targets=1)
    assert not fit_components(rows).same_seed
    assert fit_components(rows.assign(target_seed=rows["seed"])).same_seed


def test_failed_rows_do_not_count() -> None:
    rows = simulate(np.random.default_rng(6), missing=0.3)
    assert fit_components(rows) == fit_components(rows[~rows["failed"]])
    assert fit_components(rows).targets == (~rows["failed"]).sum()


def test_the_part_of_seeds_is_unbiased_whichever_runs_are_missing() -> None:
    """The mean of a quadratic form is the sum of its values for each seed alone."""
    rows = simulate(np.random.default_rng(8), targets=1, missing=0.4)
    levels = (0.1 * (rows["seed"] == seed) for seed in rows["seed"].unique())
    found = [fit_components(rows.assign(final_accuracy=level)) for level in levels]
    assert sum(each.seed.variance for each in found) == pytest.approx(0.1**2)
    assert {each.run_and_target.std for each in found} == {0}


def test_the_curve_of_means_is_no_part() -> None:
    rows = simulate(np.random.default_rng(7))
    other = rows.assign(final_accuracy=rows["final_accuracy"] + np.cos(rows["effective_batch"]))
    found, moved = fit_components(rows), fit_components(other)
    for name in TRUE:
        assert getattr(found, name).std == pytest.approx(getattr(moved, name).std, rel=1e-6)


@pytest.mark.parametrize("targets", [1, 3])
def test_constant_accuracies_have_no_parts(targets: int) -> None:
    none = dict.fromkeys(TRUE, 0.0)
    found = fit_components(simulate(np.random.default_rng(0), targets=targets, **none))
    assert found.seed == found.run_and_target == Spread(0, 0, 0)
    assert found.shares() == "All targets of one B are equally accurate."
    assert found.next_seeds().endswith("more seeds would not help.")


@pytest.mark.parametrize(
    "kept",
    [
        "seed == 3",
        "effective_batch == 4",
        "seed < 0",
        "effective_batch == 2 ** (seed - 1)",
        "effective_batch == 4 or seed == 3",
    ],
    ids=["one seed", "one size", "no run", "each seed at a size of its own", "no second pair"],
)
def test_too_few_runs_are_an_error_that_says_what_to_run(kept: str) -> None:
    rows = simulate(np.random.default_rng(0)).query(kept)
    with pytest.raises(UserError, match=r"successful run.* run two seeds or more at the same two"):
        fit_components(rows)
    with pytest.raises(UserError, match=r"^0 successful run"):
        fit_components(rows.assign(failed=True))


def test_two_seeds_at_two_sizes_suffice() -> None:
    rows = simulate(np.random.default_rng(0)).query("seed < 5 and effective_batch < 16")
    found = fit_components(rows)
    assert (found.sizes, found.seeds, found.runs, found.targets) == (2, 2, 4, 12)
    assert found.seed.high == 0.5, "two seeds say next to nothing"


# -- the sentences -------------------------------------------------------------------------------


def test_shares_are_said_in_words() -> None:
    assert components(0.06, 0.05, 0.03).shares() == (
        "Of the variance between networks at one B, about 51 % is common to all runs of a seed "
        "(surrogate and clusters), 36 % a run's own (generators) and 13 % a target's own (its "
        "training)."
    )
    assert single(0.06, 0.08).shares() == (
        "Of the variance between networks at one B, about 36 % is common to all runs of a seed "
        "(surrogate and clusters), and 64 % a run's own (generators and the target's training, "
        "which one target for each run cannot tell apart)."
    )
    assert replace(single(0.06, 0.08), same_seed=True).shares() == (
        "Of the variance between networks at one B, about 36 % is common to all runs of a seed "
        "(surrogate and clusters, and what the target's seed does in all of them), and 64 % a "
        "run's own (generators and the target's training, which one target for each run cannot "
        "tell apart)."
    )


@pytest.mark.parametrize(
    ("run_cost", "advice"),
    [
        (
            0,
            "new seeds with as many trainings of targets by 18 %: buy seeds, unless learning the "
            "perturbations of ",
        ),
        (5.9, "new seeds for the same money by 6 %: buy either."),
        (4.0, "new seeds for the same money by 7 %: buy seeds, unless learning the perturbations "),
        (
            10,
            "new seeds for the same money by 4 %: buy targets, unless learning the perturbations ",
        ),
    ],
)
def test_seeds_to_buy_next(run_cost: float, advice: str) -> None:
    found = components(0.03, 0.04, 0.05)  # s2 + g2 = e2
    said = found.next_seeds(run_cost)
    assert said.startswith("One more target for each run would shrink the interval of the mean at ")
    assert f"by 6 %, {advice}" in said
    limit = {"seeds": "more", "targets": "less"}
    for bought, word in limit.items():
        if f"buy {bought}" in said:
            assert said.endswith(f"of a run costs {word} than 6 trainings of a target.")


@pytest.mark.parametrize("run_cost", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("parts", [(0.06, 0.05, 0.03), (0.01, 0.02, 0.09), (0.0, 0.0, 0.05)])
def test_the_advice_is_that_of_the_variances(
    parts: tuple[float, float, float], run_cost: float
) -> None:
    seed, run, target = np.square(parts)
    runs, targets = 10_000, 3

    def width(runs: float, targets: int) -> float:
        return float(np.sqrt((seed + run) / runs + target / (runs * targets)))

    more_runs = runs + runs / (run_cost + targets)
    widths = [width(runs, targets + 1), width(more_runs, targets)]
    by_targets, by_runs = (1 - new / width(runs, targets) for new in widths)
    said = components(*parts, targets_per_run=targets).next_seeds(run_cost)
    assert f"by {100 * by_targets:.0f} %, new seeds " in said
    assert f" by {100 * by_runs:.0f} %: buy" in said
    if f"{100 * by_targets:.0f}" != f"{100 * by_runs:.0f}":
        assert f"buy {'seeds' if by_runs > by_targets else 'targets'}" in said
    else:
        assert "buy either" in said


def test_runs_are_bought_whatever_they_cost_if_targets_do_not_vary() -> None:
    assert components(0.06, 0.05, 0).next_seeds(3).endswith("by 9 %: buy seeds.")


@pytest.mark.parametrize(
    ("run_cost", "advice"),
    [
        (0, "new seeds with as many trainings of targets by 29 %: buy seeds."),
        (
            9,
            "new seeds for the same money by 5 %: buy a second target for some runs, which tells "
            "how much it would.",
        ),
    ],
)
def test_one_target_for_each_run_bounds_what_a_second_would_do(
    run_cost: float, advice: str
) -> None:
    assert single(0.06, 0.08).next_seeds(run_cost) == (
        "A second target for each run would shrink the interval of the mean at one B by at most "
        f"18 %, {advice} The difference of two sizes is taken within seeds, where a second target "
        "would do at most 29 %."
    )
