"""The clusters of a run: which images share a perturbation, and where it drives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bigbatch_ue.files.tensor_files import read_tensors, require_tensors, write_tensors
from bigbatch_ue.runtime.errors import UserError


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
