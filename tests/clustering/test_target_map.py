"""Target maps: permutations without a fixed point."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from bigbatch_ue.clustering.target_map import target_map
from bigbatch_ue.config.names import TargetMap


def derangement(count: int, seed: int) -> NDArray[np.int64]:
    return target_map(
        TargetMap.DERANGEMENT, np.zeros((count, 1), np.float32), np.arange(count), seed
    )


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_derangement_has_no_fixed_point(count: int) -> None:
    for seed in range(300):
        permutation = derangement(count, seed)
        assert sorted(permutation) == list(range(count))
        assert (permutation != np.arange(count)).all()


def test_derangements_are_uniform() -> None:
    draws = 1800
    counts = Counter(tuple(derangement(4, seed)) for seed in range(draws))
    assert len(counts) == 9
    deviation = math.sqrt(draws / 9 * 8 / 9)
    assert all(abs(count - draws / 9) < 4 * deviation for count in counts.values())


@pytest.mark.parametrize("sizes", [[2, 2], [3, 3, 3], [10] * 5, [4, 1, 1, 2]])
def test_clusters_of_a_class_aim_at_other_classes(sizes: list[int]) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    seen = set()
    for seed in range(20):
        targets = target_map(TargetMap.DERANGEMENT, np.zeros((len(group), 1)), group, seed)
        assert sorted(targets) == list(range(len(group)))
        assert (group[targets] != group).all()
        seen.add(tuple(targets))
    assert len(seen) > 1


def test_a_class_of_most_clusters_aims_at_itself_as_rarely_as_possible() -> None:
    group = np.array([0, 0, 0, 1])
    targets = target_map(TargetMap.DERANGEMENT, np.zeros((4, 1)), group, seed=0)
    assert (targets != np.arange(4)).all()
    assert (group[targets] == group).sum() == 2


def test_farthest_targets_have_the_largest_sum_of_distances() -> None:
    centres = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def total(targets: NDArray[np.int64]) -> float:
        return float(np.linalg.norm(centres - centres[targets], axis=1).sum())

    found = target_map(TargetMap.FARTHEST, centres, np.arange(5), seed=0)
    everything = [np.array(p) for p in permutations(range(5)) if (p != np.arange(5)).all()]
    assert total(found) == pytest.approx(max(map(total, everything)))
    assert (found != np.arange(5)).all()
