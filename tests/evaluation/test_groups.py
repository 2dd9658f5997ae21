"""Seed groups: arms that differ only in their seeds."""

import pytest

from bigbatch_ue.evaluation.report.groups import seed_groups
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import arm


def test_seeds_of_one_arm_have_the_same_classes() -> None:
    with pytest.raises(UserError, match="number of classes differs"):
        seed_groups([arm(), arm(seed=1, confusion=[[1]])])
