"""Learned perturbations of a finished run, and 8-bit images with them added."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.tensor_files import read_tensors, require_tensors
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.errors import UserError

_CHUNK = 1024


@dataclass(frozen=True)
class Perturbations:
    """The perturbations of a data set, and which of them each image gets.

    Attributes:
        delta: float32 [p, C, H, W] in [-eps, eps], where white is 1.
        assignment: int64 [N], each image's index into `delta`.
        eps: bound of each value.
    """

    delta: NDArray[np.float32]
    assignment: NDArray[np.int64]
    eps: float

    def fingerprint(self) -> str:
        """Return twelve hexadecimal digits that identify exactly these numbers."""
        hashes = [hashlib.sha256(a.tobytes()).hexdigest() for a in (self.delta, self.assignment)]
        return digest([*hashes, self.delta.shape, self.eps])


def load_perturbations(config: Config, run: Run, data: DataSet) -> Perturbations:
    """Load the perturbations of a finished run.

    Raises:
        UserError: a file is missing, torn or of another run or kind; or the data set is no longer
            the one that the run was trained on.
    """
    data = data.as_trained_on(config, run)
    tensors, metadata = read_tensors(run.perturbations)
    require_tensors(run.perturbations, tensors, perturbations=(4, torch.float32))
    delta, eps = tensors["perturbations"], config.generator.eps
    assignment = Clusters.load(run.clusters).assignment
    expected = (config.clusters.generators, *data.train.images.shape[1:])
    matches = tuple(delta.shape) == expected and len(assignment) == len(data.train)
    if metadata.get("answer") != run.answer or not matches:
        raise UserError(f"{run.perturbations}: belongs to another run or data set; train again")
    if not delta.abs().max() <= eps * (1 + 1e-6):
        raise UserError(f"{run.perturbations}: contains values beyond eps = {eps:g}; train again")
    return Perturbations(delta.numpy(), assignment.numpy(), eps)


def protected_images(
    images: Pixels, delta: NDArray[np.float32], assignment: NDArray[np.int64], eps: float
) -> Pixels:
    """Add to each image the perturbation of its cluster, in 8 bits.

    Args:
        images: uint8 [N, C, H, W], may be a memory map.
        delta: float32 [p, C, H, W] in [-eps, eps], where white is 1.
        assignment: int64 [N], each image's index into `delta`.
        eps: no pixel is changed by more.

    Returns:
        uint8 [N, C, H, W] in memory.
    """
    units = to_eight_bit(delta, eps)
    protected = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        protected[part] = add_units(images[part], units[assignment[part]])
    return protected


def to_eight_bit(delta: NDArray[np.float32], eps: float) -> NDArray[np.int16]:
    """Convert `delta` to whole units of 1/255: rounded to nearest, never beyond `eps`."""
    largest = math.floor(255 * eps + 1e-6)
    units = np.rint(255 * delta.astype(np.float64))
    return np.clip(units, -largest, largest).astype(np.int16)


def add_units(images: Pixels, units: NDArray[np.int16]) -> Pixels:
    """Add `units` of 1/255 to uint8 images of the same shape, clipped to 0 ... 255."""
    return np.asarray(np.clip(images + units, 0, 255), np.uint8)


def resize_perturbation(delta: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize one perturbation [C, H, W] bilinearly; no value grows beyond the largest."""
    if delta.shape[1:] == (height, width):
        return delta
    shrinks = height < delta.shape[1] or width < delta.shape[2]
    batch = torch.from_numpy(delta)[None]
    resized = F.interpolate(batch, (height, width), mode="bilinear", antialias=shrinks)
    return np.asarray(resized[0])
