"""The measurement of how much clusters tell of the labels."""

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.data.source import Labels
from bigbatch_ue.runs.result import Agreement


def measure_agreement(assignment: NDArray[np.int64], labels: Labels) -> Agreement | None:
    """Compare clusters with classes.

    Args:
        assignment: int64 [N], the cluster of each image.
        labels: int64 [N], the class of each image.

    Returns:
        The agreement, or None if there is a single class.
    """
    from sklearn.metrics import homogeneity_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    if len(np.unique(labels)) < 2:
        return None
    table = contingency_matrix(assignment, labels)
    return Agreement(
        nmi=round(float(normalized_mutual_info_score(labels, assignment)), 4),
        purity=round(float(table.max(axis=1).sum() / len(labels)), 4),
        homogeneity=round(float(homogeneity_score(labels, assignment)), 4),
        table=tuple(tuple(row) for row in table.tolist()),
    )
