"""Perturbations of a finished run, and images under them in 8 bits."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.tensor_files import read_tensors, require_tensors
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.clusters import Clusters

_CHUNK = 1024


@dataclass(frozen=True)
class Perturbations:
    """`delta` float32 [p, C, H, W] in [-eps, eps]; `assignment` int64 [N], each image's row."""

    delta: NDArray[np.float32]
    assignment: NDArray[np.int64]
    eps: float

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that name these very numbers."""
        hashes = [hashlib.sha256(a.tobytes()).hexdigest() for a in (self.delta, self.assignment)]
        return digest([*hashes, self.delta.shape, self.eps])


def load_perturbations(config: Config, run: Run, data: DataSet) -> Perturbations:
    """The perturbations of a finished run.

    Raises:
        UserError: a missing or torn file, one of another run or kind, or a data set that is no
            longer the one that the run was trained on.
    """
    if run.answer != digest([config.answer(), data.fingerprint]):
        raise UserError(f"{run.folder}: {data.name} has changed since this run; train anew")
    tensors, metadata = read_tensors(run.perturbations)
    require_tensors(run.perturbations, tensors, perturbations=(4, torch.float32))
    delta, eps = tensors["perturbations"], config.generator.eps
    assignment = Clusters.load(run.clusters).assignment
    expected = (config.clusters.count, *data.train.images.shape[1:])
    fits = tuple(delta.shape) == expected and len(assignment) == len(data.train)
    if metadata.get("answer") != run.answer or not fits:
        raise UserError(f"{run.perturbations}: belongs to another run or data set; train anew")
    if not delta.abs().max() <= eps * (1 + 1e-6):
        raise UserError(f"{run.perturbations}: holds values beyond eps = {eps:g}; train anew")
    return Perturbations(delta.numpy(), assignment.numpy(), eps)


def to_eight_bit(delta: NDArray[np.float32], eps: float) -> NDArray[np.int16]:
    """`delta` in whole 1/255, rounded to nearest but never beyond `eps`; same shape."""
    largest = math.floor(255 * eps + 1e-6)
    units = np.rint(255 * delta.astype(np.float64))
    return np.clip(units, -largest, largest).astype(np.int16)


def protected_images(
    images: Pixels, delta: NDArray[np.float32], assignment: NDArray[np.int64], eps: float
) -> Pixels:
    """Each image under the perturbation of its cluster, in 8 bits.

    Args:
        images: uint8 [N, C, H, W], may be a memory map.
        delta: float32 [p, C, H, W] in [-eps, eps].
        assignment: int64 [N], each image's row of `delta`.
        eps: no pixel is changed by more, in units where white is 1.

    Returns:
        uint8 [N, C, H, W] in memory.
    """
    units = to_eight_bit(delta, eps)
    protected = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        protected[part] = _add(images[part], units[assignment[part]])
    return protected


def _add(images: Pixels, units: NDArray[np.int16]) -> Pixels:
    """uint8 images changed by `units` of 1/255 and clipped; both have the same shape."""
    return np.asarray(np.clip(images + units, 0, 255), np.uint8)
