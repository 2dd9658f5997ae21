"""k-means on the surrogate's features, and the target centre that each cluster is driven to."""

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


@dataclass(frozen=True)
class Clusters:
    """N images in p clusters (Zhang et al., CVPR 2023, arXiv 2301.01217, section 3.3).

    `assignment` int64 [N] is each image's cluster, `centres` float32 [p, d] the mean features, and
    `permutation` int64 [p] the cluster whose centre a cluster's images are to be mistaken for.
    """

    assignment: Tensor
    centres: Tensor
    permutation: Tensor

    @property
    def targets(self) -> Tensor:
        """The centre that each cluster is driven to, float32 [p, d]."""
        return self.centres[self.permutation]

    @property
    def sizes(self) -> Tensor:
        """The number of images in each cluster, int64 [p]."""
        return torch.bincount(self.assignment, minlength=len(self.centres))

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the clusters and JSON-able `metadata` as one safetensors file, atomically."""
        write_tensors(path, vars(self), metadata)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: missing or torn file, a tensor of another kind, an image in no cluster, or
                target clusters that are no permutation.
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
            raise UserError(f"{path}: 'assignment' names clusters outside 0 ... {count - 1}")
        if not torch.equal(clusters.permutation.sort().values, torch.arange(count)):
            raise UserError(f"{path}: 'permutation' is no permutation of 0 ... {count - 1}")
        return clusters


def cluster_features(features: Tensor, config: ClustersConfig, seed: int) -> Clusters:
    """Cluster images by their features and draw each cluster's target.

    One thread, because the order in which threads add up would change the last bits.

    Args:
        features: float [N, d].
        config: number of clusters, restarts, above how many images MiniBatchKMeans is used (with
            less memory and time, for a slightly worse optimum), and kind of target map.
        seed: decides the initial centres and the target map.

    Returns:
        Clusters of which none is empty; a tiny one, less than a twentieth of the mean size, is
        warned of.

    Raises:
        UserError: more clusters than images or than distinct features, features not finite.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # a second to import
    from sklearn.exceptions import ConvergenceWarning

    count, p = len(features), config.count
    if p > count:
        raise UserError(f"clusters.count={p} exceeds the {count} images: lower it")
    if not torch.stack(features.aminmax()).isfinite().all():  # no [N, d] of its own
        raise UserError("the surrogate's features are not finite: choose other surrogate.weights")
    method = MiniBatchKMeans if count > config.minibatch_above else KMeans
    state = int(draw(seed, Purpose.KMEANS).integers(2**32))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = method(p, n_init=config.n_init, random_state=state).fit(features.numpy())
    clusters = Clusters(
        torch.from_numpy(found.labels_.astype(np.int64)),
        torch.from_numpy(found.cluster_centers_.astype(np.float32)),
        torch.from_numpy(target_map(p, config.target_map, seed)),
    )
    _check_sizes(clusters.sizes)
    return clusters


def target_map(count: int, kind: str, seed: int) -> NDArray[np.int64]:
    """The target of each of `count` clusters, int64 [count], never itself.

    `shift` is (i + 1) mod count; `derangement` is uniform over all permutations without a fixed
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
    empty = int((sizes == 0).sum())
    if empty:
        raise UserError(
            f"{empty} of {len(sizes)} clusters are empty, since too many images are alike: "
            "lower clusters.count"
        )
    least = max(2, int(sizes.sum()) / (_TINY * len(sizes)))
    tiny = sizes[sizes < least].tolist()
    if tiny:
        warnings.warn(
            f"{len(tiny)} of {len(sizes)} clusters have very few images ({tiny}): their "
            "perturbations learn little; consider a lower clusters.count",
            stacklevel=3,
        )
