"""SimCLR: an encoder trained on images without labels."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from bigbatch_ue.config.sections import AugmentConfig, TrainingRecipe
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.networks.inference import autocast, output_width, to_channels_last, to_device
from bigbatch_ue.networks.recipe import reproducible, train_epochs

TEMPERATURE = 0.5
PROJECTION = 128


def train_simclr(
    model: nn.Module,
    images: Pixels,
    *,
    recipe: TrainingRecipe,
    augment: AugmentConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place so that two views of an image agree: for images without labels.

    SimCLR (Chen et al., ICML 2020, arXiv 2002.05709), with a two-layer projection head that is
    thrown away. Flips are among the views only where `augment.flip` says so.

    Args:
        model: maps float [M, C, H, W] in [0, 1] to features [M, d].
        images: uint8 [N, C, H, W], may be a memory map.
        recipe: as for `train_classifier`.
        augment: only its `flip` is used; the other transformations are SimCLR's.
        seed: decides shuffles, views and the head.
        device: where to train; bfloat16 autocast on CUDA, float32 elsewhere.
        on_epoch: called with (epoch from 0, mean loss) after each epoch.

    Returns:
        The mean loss of each epoch.

    Raises:
        UserError: as for `train_classifier`.
    """
    transform = simclr_views(images.shape[1], images.shape[-1], augment.flip)

    def loss(trained: nn.Module, chosen: NDArray[np.int64], _: np.random.Generator) -> Tensor:
        batch = to_device(images[chosen], device)
        views = torch.stack([transform(image) for image in (*batch, *batch)])
        with autocast(device):
            return nt_xent(trained(to_channels_last(views)), TEMPERATURE)

    losses = []
    with reproducible(seed, recipe, device):
        width = output_width(model, images, device)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
        both = nn.Sequential(model, head)
        for epoch, mean_loss in train_epochs(both, len(images), loss, recipe, seed, device):
            losses.append(mean_loss)
            if on_epoch is not None:
                on_epoch(epoch, mean_loss)
    model.eval()
    return losses


def simclr_views(channels: int, size: int, flip: bool) -> Callable[[Tensor], Tensor]:
    """SimCLR's random transformation of one uint8 image [C, H, W] to float [C, size, size]."""
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
    """Normalised temperature-scaled cross-entropy of pairs (arXiv 2002.05709, eq. 1).

    Args:
        projections: float [2 M, k]; rows i and M + i are the two views of image i.
        temperature: divides the cosine similarities.

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
