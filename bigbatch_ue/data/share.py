"""A share of a data set: some images of each class."""

import numpy as np

from bigbatch_ue.data.source import Labels
from bigbatch_ue.runtime.randomness import Purpose, draw


def stratified_share(labels: Labels, count: int) -> Labels:
    """Choose `count` of N images at random: of each class the same share, and at least one.

    The choice is the same in every run, and a larger one contains a smaller one.

    Args:
        labels: int64 [N], from 0 on.
        count: 1 ... N; with fewer than there are classes, some classes have no image.

    Returns:
        int64 [`count`], ascending indices.
    """
    order = draw(0, Purpose.SHARE).permutation(len(labels))
    classes = labels[order]
    sizes = np.bincount(classes)
    rank = np.empty_like(order)
    rank[np.argsort(classes, kind="stable")] = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(order[np.argsort(rank / sizes[classes], kind="stable")[:count]])
