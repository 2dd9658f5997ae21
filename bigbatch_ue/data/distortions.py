"""Random distortions of images, of the kinds that scrapers apply, differentiable in the images."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CHAIN = 2
"""Distortions of one view, one after the other."""
_NUMBERS = 4
_LUMA = (0.299, 0.587, 0.114)


class Distortion(IntEnum):
    """The kind of a distortion; `NONE` leaves the image as it is."""

    NONE = 0
    JPEG = 1
    BLUR = 2
    GREY = 3
    BIT_DEPTH = 4
    COLOUR = 5
    GEOMETRY = 6


@dataclass(frozen=True)
class Distortions:
    """The chain of distortions of each of M views.

    Attributes:
        kind: a `Distortion`, int8 [M, CHAIN].
        numbers: how it is applied, float32 [M, CHAIN, 4], uniform in [0, 1).
    """

    kind: NDArray[np.int8]
    numbers: NDArray[np.float32]

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> "Distortions":
        return Distortions(self.kind[chosen], self.numbers[chosen])


def draw_distortions(random: np.random.Generator, count: int) -> Distortions:
    """Draw the chains of `count` views; all kinds are equally frequent."""
    kind = random.integers(len(Distortion), size=(count, CHAIN)).astype(np.int8)
    return Distortions(kind, random.random((count, CHAIN, _NUMBERS), dtype=np.float32))


def distort(images: Tensor, distortions: Distortions) -> Tensor:
    """Distort each of `images`, float [M, C, H, W] in [0, 1], by its own chain.

    An image's result does not depend on the others. Gradients pass rounding as if it were not
    there.
    """
    for place in range(CHAIN):
        kinds = distortions.kind[:, place]
        numbers = torch.as_tensor(distortions.numbers[:, place], device=images.device)
        for kind, apply in _APPLY.items():
            chosen = torch.as_tensor(np.flatnonzero(kinds == kind), device=images.device)
            if len(chosen):
                changed = apply(images[chosen], numbers[chosen]).clamp(0, 1)
                images = images.index_copy(0, chosen, changed)
    return images


def _jpeg(images: Tensor, numbers: Tensor) -> Tensor:
    """Compress with JPEG at quality 10 to 95, differentiably (Reich et al., WACV 2024)."""
    from kornia.enhance import jpeg_codec_differentiable  # seconds to import

    channels = images.shape[1]
    quality = 10 + 85 * numbers[:, 0]
    coded: Tensor = jpeg_codec_differentiable(images.expand(-1, 3, -1, -1), quality)
    return coded if channels == 3 else coded.mean(dim=1, keepdim=True)


def _blur(images: Tensor, numbers: Tensor) -> Tensor:
    """Blur with a Gaussian of standard deviation 0.3 to 1.5 pixels."""
    from kornia.filters import gaussian_blur2d

    sigma = (0.3 + 1.2 * numbers[:, :1]).expand(-1, 2)
    blurred: Tensor = gaussian_blur2d(images, (7, 7), sigma, border_type="reflect")
    return blurred


def _grey(images: Tensor, numbers: Tensor) -> Tensor:
    """Mix with the greyscale image; grey images stay as they are."""
    return torch.lerp(images, _luma(images), numbers[:, 0, None, None, None])


def _bit_depth(images: Tensor, numbers: Tensor) -> Tensor:
    """Keep 2 to 6 bits of each value."""
    levels = 2 ** (2 + (5 * numbers[:, 0]).floor())[:, None, None, None] - 1
    rounded = (images * levels).round() / levels
    return images + (rounded - images).detach()


def _colour(images: Tensor, numbers: Tensor) -> Tensor:
    """Change brightness, contrast and saturation by up to 40 %."""
    brightness, contrast, saturation, _ = (0.6 + 0.8 * numbers)[..., None, None, None].unbind(1)
    images = images * brightness
    mean = _luma(images).mean(dim=(2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast)
    return torch.lerp(_luma(images), images, saturation)


def _geometry(images: Tensor, numbers: Tensor) -> Tensor:
    """Rotate by up to 20 degrees, scale by up to 15 % and move by up to 10 % of the side."""
    centred = 2 * numbers - 1
    angle, scale = centred[:, 0] * np.deg2rad(20), 1 + 0.15 * centred[:, 1]
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = [
        torch.stack([cosine, -sine, 0.2 * centred[:, 2]], dim=1),
        torch.stack([sine, cosine, 0.2 * centred[:, 3]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _luma(images: Tensor) -> Tensor:
    """Return the greyscale image [M, 1, H, W] (Rec. 601)."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor(_LUMA)[None, :, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


_APPLY: dict[Distortion, Callable[[Tensor, Tensor], Tensor]] = {
    Distortion.JPEG: _jpeg,
    Distortion.BLUR: _blur,
    Distortion.GREY: _grey,
    Distortion.BIT_DEPTH: _bit_depth,
    Distortion.COLOUR: _colour,
    Distortion.GEOMETRY: _geometry,
}
