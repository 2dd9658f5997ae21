"""Training of a classifier: cross-entropy on labelled images, reproducible from a seed.

Networks here take float images in [0, 1]. Images are stored as uint8 [N, C, H, W], and converted to
float one batch at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.data.source import Labels, Pixels
from bigbatch_ue.data.views import apply_views, draw_views
from bigbatch_ue.networks.inference import accuracy, autocast, to_channels_last, to_device, to_float
from bigbatch_ue.networks.recipe import TrainingSettings, reproducible, train_epochs

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Views uint8 [M, C, H, W] and labels int64 [M] to images, uint8 or float in [0, 1], and targets:
labels, or probabilities [M, classes]."""
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""The network, images and targets to the images that are learned instead: adversarial training."""


class LearningCurve(NamedTuple):
    """Accuracy on the test set (empty without one) and mean training loss after each epoch."""

    accuracies: list[float]
    losses: list[float]


def train_classifier(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    settings: TrainingSettings,
    *,
    test: tuple[Pixels, Labels] | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
    on_images: Callable[[int], None] | None = None,
    transform: Transform | None = None,
    attack: Attack | None = None,
) -> LearningCurve:
    """Train `model` in place with cross-entropy; leaves it on the device in evaluation mode.

    Args:
        model: maps float [M, C, H, W] in [0, 1] to logits [M, classes]. Frozen parameters stay so.
        images: uint8 [N, C, H, W], may be a memory map.
        labels: int64 [N] in 0 ... classes - 1.
        settings: recipe, views, seed, device and ranks.
        test: images and labels on which the accuracy is measured after each epoch, each image once.
        on_epoch: called with (epoch from 0, test accuracy or None) after each epoch.
        on_images: called with the number of images of each batch after it.
        transform: applied to each batch of views and its labels.
        attack: replaces the images of each batch.

    Raises:
        UserError: fewer than two images or a batch of one for each rank, or a loss that is not
            finite.
    """
    device, augment = settings.device, settings.augment

    def loss(wrapped: nn.Module, index: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        batch, targets = to_device(images[index], device), to_device(labels[index], device)
        batch = apply_views(batch, draw_views(random, len(batch), augment), augment.pad)
        if transform is not None or attack is not None:
            torch.manual_seed(int(random.integers(2**63 - 1)))
        if transform is not None:
            batch, targets = transform(batch, targets)
        part = settings.rank_slice(len(index))
        batch, targets = to_channels_last(to_float(batch[part])), targets[part]
        if attack is not None:
            batch = attack(model, batch, targets)
        with autocast(device):
            logits = wrapped(batch)
        mean: Tensor = F.cross_entropy(logits.float(), targets)
        return mean * (len(targets) / len(index))

    curve = LearningCurve([], [])
    with reproducible(settings):
        for epoch, mean_loss in train_epochs(model, len(images), loss, settings, on_images):
            curve.losses.append(mean_loss)
            if test is not None:
                curve.accuracies.append(accuracy(model, *test, device, settings.ranks))
            if on_epoch is not None:
                on_epoch(epoch, curve.accuracies[-1] if curve.accuracies else None)
    model.eval()
    return curve
