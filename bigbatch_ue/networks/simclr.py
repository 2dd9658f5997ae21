"""SimCLR: training of an encoder on images without labels."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from bigbatch_ue.data.source import Pixels
from bigbatch_ue.networks.inference import autocast, output_width, to_channels_last, to_device
from bigbatch_ue.networks.recipe import TrainingSettings, reproducible, train_epochs

TEMPERATURE = 0.5
PROJECTION = 128


def train_simclr(
    model: nn.Module,
    images: Pixels,
    settings: TrainingSettings,
    *,
    on_images: Callable[[int], None] | None = None,
) -> list[float]:
    """Train `model` in place so that the features of two views of an image agree.

    SimCLR (Chen et al., ICML 2020, arXiv 2002.05709), with a two-layer projection head that is
    discarded afterwards. Leaves `model` in evaluation mode.

    Args:
        model: maps float [M, C, H, W] in [0, 1] to features [M, d].
        images: uint8 [N, C, H, W], may be a memory map.
        settings: recipe, seed and device. Of `augment` only `flip` is used; the other
            transformations are SimCLR's. `ranks` is ignored: each process trains alone.
        on_images: called with the number of images of each batch after it.

    Returns:
        The mean loss of each epoch.

    Raises:
        UserError: as for `train_classifier`.
    """
    settings, device = replace(settings, ranks=None), settings.device
    transform = simclr_views(images.shape[1], images.shape[-1], settings.augment.flip)

    def loss(wrapped: nn.Module, index: NDArray[np.int64], _: np.random.Generator) -> Tensor:
        batch = to_device(images[index], device)
        views = torch.stack([transform(image) for image in (*batch, *batch)])
        with autocast(device):
            return nt_xent(wrapped(to_channels_last(views)), TEMPERATURE)

    losses = []
    with reproducible(settings):
        width = output_width(model, images, device)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
        with_head = nn.Sequential(model, head)
        for _, mean_loss in train_epochs(with_head, len(images), loss, settings, on_images):
            losses.append(mean_loss)
    model.eval()
    return losses


def simclr_views(channels: int, size: int, flip: bool) -> Callable[[Tensor], Tensor]:
    """Return SimCLR's random transformation of a uint8 image [C, H, W] to float [C, size, size]."""
    colour = [0.4, 0.4, 0.4, 0.1] if channels == 3 else [0.4, 0.4]
    transforms: list[Any] = [
        v2.RandomResizedCrop(size, scale=(0.3, 1.0), antialias=True),
        v2.RandomHorizontalFlip(0.5 if flip else 0.0),
        v2.RandomApply([v2.ColorJitter(*colour)], p=0.8),
        v2.ToDtype(torch.float32, scale=True),
    ]
    if channels == 3:
        transforms.insert(3, v2.RandomGrayscale(0.2))
    composed: Callable[[Tensor], Tensor] = v2.Compose(transforms)
    return composed


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of pairs (arXiv 2002.05709, eq. 1).

    Args:
        projections: float [2 M, k]; rows i and M + i are the two views of image i.
        temperature: divisor of the cosine similarities.

    Returns:
        The mean loss over all 2 M rows, a scalar.
    """
    unit = F.normalize(projections.float(), dim=1)
    similarity = unit @ unit.T / temperature
    similarity = similarity.masked_fill(
        torch.eye(len(unit), dtype=torch.bool, device=unit.device), -math.inf
    )
    partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return F.cross_entropy(similarity, partner)
