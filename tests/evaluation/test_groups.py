"""Seed groups: arms that differ only in their seeds."""

from dataclasses import replace

import pytest

from bigbatch_ue.evaluation.report.groups import SeedGroup, seed_groups
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
