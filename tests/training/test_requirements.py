"""Operations are counted from shapes, and agree with what is known of the networks."""

import pytest

from bigbatch_ue.config.load import load_config
from bigbatch_ue.training.requirements import count_flops


def test_resnet50_and_the_generator_at_224_pixels() -> None:
    """He et al. (2016): 4.1 G multiply-adds forward at 224 px; as much again for the gradient."""
    flops = count_flops(load_config("pets-parity"), 3)
    assert flops.image == pytest.approx(2 * 2 * 4.1e9, rel=0.03)
    assert flops.generator == pytest.approx(160e9, rel=0.08)


def test_one_generator_does_not_depend_on_how_many_there_are() -> None:
    few, many = (
        count_flops(load_config("digits", overrides=[f"clusters.count={p}"]), 1) for p in (2, 5)
    )
    assert few == many
    assert few.generator > 0
