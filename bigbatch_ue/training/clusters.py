"""Clusters of the surrogate's features by k-means, and the target centre of each cluster."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from bigbatch_ue.config.sections import ClustersConfig
from bigbatch_ue.files.tensor_files import read_tensors, require_tensors, write_tensors
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

_TINY = 20
"""Clusters smaller than the mean size divided by this are reported."""


@dataclass(frozen=True)
class Clusters:
    """N images in p clusters (Zhang et al., CVPR 2023, arXiv 2301.01217, section 3.3).

    Attributes:
        assignment: int64 [N], the cluster of each image.
        centres: float32 [p, d], the mean features of each cluster.
        permutation: int64 [p], the cluster whose centre is each cluster's target.
    """

    assignment: Tensor
    centres: Tensor
    permutation: Tensor

    @property
    def targets(self) -> Tensor:
        """The target centre of each cluster, float32 [p, d]."""
        return self.centres[self.permutation]

    @property
    def sizes(self) -> Tensor:
        """Number of images in each cluster, int64 [p]."""
        return torch.bincount(self.assignment, minlength=len(self.centres))

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the clusters and JSON-able `metadata` as one safetensors file, atomically."""
        write_tensors(path, vars(self), metadata)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the clusters that `save` wrote.

        Raises:
            UserError: the file is missing or damaged, a tensor has the wrong shape or type, an
                image is in no cluster, or the target clusters are not a permutation.
        """
        tensors, _ = read_tensors(path)
        require_tensors(
            path,
            tensors,
            assignment=(1, torch.int64),
            centres=(2, torch.float32),
            permutation=(1, torch.int64),
        )
        clusters = cls(tensors["assignment"], tensors["centres"], tensors["permutation"])
        count = len(clusters.centres)
        if not ((clusters.assignment >= 0) & (clusters.assignment < count)).all():
            raise UserError(
                f"{path}: 'assignment' has clusters outside 0 ... {count - 1}; train again"
            )
        if not torch.equal(clusters.permutation.sort().values, torch.arange(count)):
            raise UserError(
                f"{path}: 'permutation' is not a permutation of 0 ... {count - 1}; train again"
            )
        return clusters


def cluster_features(features: Tensor, config: ClustersConfig, seed: int) -> Clusters:
    """Cluster images by their features and draw the target of each cluster.

    A single thread is used, because the order of additions in threads would change the last bits.

    Args:
        features: float [N, d].
        config: number of clusters, restarts and kind of target map. Above `minibatch_above` images
            MiniBatchKMeans is used: less memory and time, but a slightly worse optimum.
        seed: decides the initial centres and the target map.

    Returns:
        Clusters, none of them empty. A warning names those below a twentieth of the mean size.

    Raises:
        UserError: there are more clusters than images or distinct features, or the features are
            not finite.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # a second to import
    from sklearn.exceptions import ConvergenceWarning

    count, p = len(features), config.count
    if p > count:
        raise UserError(f"clusters.count={p}: exceeds the {count} images; lower it")
    if not torch.stack(features.aminmax()).isfinite().all():  # needs no other [N, d]
        raise UserError("surrogate.weights: the features are not finite; choose other weights")
    method = MiniBatchKMeans if count > config.minibatch_above else KMeans
    state = int(draw(seed, Purpose.KMEANS).integers(2**32))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = method(p, n_init=config.n_init, random_state=state).fit(features.numpy())
    clusters = Clusters(
        torch.from_numpy(kmeans.labels_.astype(np.int64)),
        torch.from_numpy(kmeans.cluster_centers_.astype(np.float32)),
        torch.from_numpy(target_map(p, config.target_map, seed)),
    )
    _check_sizes(clusters.sizes)
    return clusters


def target_map(count: int, kind: str, seed: int) -> NDArray[np.int64]:
    """Draw the target of each of `count` clusters, int64 [count]; never the cluster itself.

    `shift` is (i + 1) mod count. `derangement` is uniform over all permutations without a fixed
    point, by rejection (about e tries).
    """
    identity = np.arange(count)
    if kind == "shift":
        return np.roll(identity, -1)
    random = draw(seed, Purpose.TARGET_MAP)
    while True:
        permutation = random.permutation(count)
        if not (permutation == identity).any():
            return permutation


def _check_sizes(sizes: Tensor) -> None:
    """Reject empty clusters and warn of tiny ones."""
    empty = int((sizes == 0).sum())
    if empty:
        raise UserError(
            f"clusters.count={len(sizes)}: {empty} cluster(s) are empty, because too many images "
            "are alike; lower it"
        )
    minimum = max(2, int(sizes.sum()) / (_TINY * len(sizes)))
    tiny = sizes[sizes < minimum].tolist()
    if tiny:
        warnings.warn(
            f"clusters.count={len(sizes)}: {len(tiny)} cluster(s) have very few images ({tiny}), "
            "so their perturbations learn little; consider lowering it",
            stacklevel=3,
        )
