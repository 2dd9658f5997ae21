"""The target map: to which cluster's centre each cluster is driven."""

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.names import TargetMap
from bigbatch_ue.runtime.randomness import Purpose, draw


def target_map(
    kind: TargetMap, centres: NDArray[np.float32], group: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Choose the target of each of p clusters: a permutation of them without a fixed point.

    Args:
        kind: `shift` is (i + 1) mod p. `farthest` has the largest sum of Euclidean distances
            between the centres of clusters and of their targets. `derangement` is drawn at random:
            uniformly over all permutations without a fixed point or, if groups have several
            clusters, among those with the fewest targets in a cluster's own group.
        centres: float32 [p, d].
        group: int64 [p], the group of each cluster: its class, or a group of its own.
        seed: of the run.

    Returns:
        int64 [p].
    """
    count = len(group)
    if kind == TargetMap.SHIFT:
        return np.roll(np.arange(count), -1)
    if kind == TargetMap.FARTHEST:
        from scipy.spatial.distance import cdist  # like scipy.optimize, slow to import

        return _assign(-cdist(centres, centres))
    random = draw(seed, Purpose.TARGET_MAP)
    if len(np.unique(group)) < count:
        same_group = group[:, None] == group[None, :]
        return _assign(random.random((count, count)) + count * same_group)
    return _derangement(count, random)


def _assign(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the permutation without a fixed point of the smallest sum of `costs` [p, p]."""
    from scipy.optimize import linear_sum_assignment  # half a second to import

    costs = costs.copy()
    np.fill_diagonal(costs, np.inf)
    return np.asarray(linear_sum_assignment(costs)[1], np.int64)


def _derangement(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw a permutation without a fixed point, uniformly, by rejection (about e tries)."""
    identity = np.arange(count)
    while True:
        permutation = random.permutation(count)
        if not (permutation == identity).any():
            return permutation
