"""Seed groups: arms that differ only in their seeds."""

from dataclasses import replace

import pytest

from bigbatch_ue.evaluation.report.groups import SeedGroup, results_by_target, seed_groups
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import an_arm, arm


def test_seeds_of_one_arm_have_the_same_classes() -> None:
    with pytest.raises(UserError, match="number of classes differs"):
        seed_groups([arm(), arm(seed=1, confusion=[[1]])])


def test_uneven_classes_are_recognised_by_their_largest() -> None:
    even = SeedGroup([an_arm(0.5, classes=2)])
    uneven = SeedGroup([replace(even.first, confusion=[[70, 10], [15, 5]])])
    assert uneven.largest_class == 0.8
    assert uneven.is_uneven
    balanced = SeedGroup([replace(even.first, confusion=[[40, 10], [15, 35]])])
    assert not balanced.is_uneven


def test_recipes_of_one_target_are_never_pooled() -> None:
    """Networks of 12 and of 60 epochs are not seeds of one row."""
    recipes = [{"target": {"model": "resnet18", "fit": {"epochs": n}}} for n in (12, 60)]
    arms = [an_arm(0.2, arm="uc", seed=seed, recipe=recipes[seed // 2]) for seed in range(4)]
    short, long = results_by_target(arms)
    assert (short.target, long.target) == (
        "resnet18, target.fit.epochs=12",
        "resnet18, target.fit.epochs=60",
    )
    assert [arm.seed for arm in short.headline[0].arms] == [0, 1]
    assert [arm.seed for arm in long.headline[0].arms] == [2, 3]
    assert len(seed_groups(arms)) == 2


def test_strengths_of_a_countermeasure_are_never_pooled() -> None:
    weak, strong = (
        an_arm(
            0.2,
            arm="uc",
            seed=seed,
            countermeasure="adversarial",
            countermeasure_settings={"eps": eps / 255, "steps": 3},
        )
        for seed, eps in enumerate((4, 8))
    )
    (results,) = results_by_target([weak, strong, an_arm(0.1, arm="uc")])
    rows = results.countermeasure_rows()
    assert [row.name for row in rows] == [
        "adversarial training (eps 4/255, 3 steps)",
        "adversarial training (eps 8/255, 3 steps)",
    ]
    assert all(row.without for row in rows)


def test_uneven_classes_are_judged_by_balanced_accuracy() -> None:
    """A network that says the larger class only has learnt nothing, whatever its accuracy."""
    counts = [[160, 0], [40, 0]]
    protected = [
        an_arm(0.8, classes=2, arm="uc", seed=seed, confusion=counts, balanced_accuracy=0.5)
        for seed in range(3)
    ]
    clean = [
        an_arm(0.9, classes=2, arm="clean", fraction=0.0, seed=seed, balanced_accuracy=0.88)
        for seed in range(3)
    ]
    (results,) = results_by_target([*clean, *protected])
    verdict = results.verdict(results.headline[0])
    assert verdict is not None
    assert str(verdict).startswith("protection works: 0 %")
