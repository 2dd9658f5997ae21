"""Random views of images: a crop of the zero-padded image, and a flip."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigbatch_ue.config.sections import AugmentConfig


@dataclass(frozen=True)
class Views:
    """One view of each of M images.

    Attributes:
        top: offset of the crop in the padded image, int16 [M] in 0 ... 2 * pad.
        left: likewise.
        flip: whether the crop is mirrored from left to right, bool [M].
    """

    top: NDArray[np.int16]
    left: NDArray[np.int16]
    flip: NDArray[np.bool_]

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> "Views":
        return Views(self.top[chosen], self.left[chosen], self.flip[chosen])


def draw_views(random: np.random.Generator, count: int, augment: AugmentConfig) -> Views:
    """Draw `count` views, uniform over offsets; a view always takes the same number of draws."""
    offsets = random.integers(2 * augment.pad + 1, size=(2, count)).astype(np.int16)
    return Views(offsets[0], offsets[1], random.random(count) < (0.5 if augment.flip else 0.0))


def apply_views(images: Tensor, views: Views, pad: int) -> Tensor:
    """Apply a view to each of `images` [M, C, H, W]; differentiable in float `images`.

    The operation is linear in `images`: the view of a sum is the sum of the views.
    """
    _, _, height, width = images.shape
    top, left, flip = (
        torch.as_tensor(part, device=images.device)[:, None]
        for part in (views.top, views.left, views.flip)
    )
    rows = top - pad + torch.arange(height, device=images.device)
    columns = left - pad + torch.arange(width, device=images.device)
    columns = torch.where(flip, columns.flip(1), columns)
    return _take(_take(images, rows, 2), columns, 3)


def _take(images: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Take `images` at `positions` [M, size] along `dim`; zero where a position is outside."""
    size = images.shape[dim]
    shape = (len(positions), 1, size, 1) if dim == 2 else (len(positions), 1, 1, size)
    inside = ((positions >= 0) & (positions < size)).view(shape)
    index = positions.clamp(0, size - 1).view(shape).expand_as(images)
    return images.gather(dim, index) * inside
