"""Train a network from scratch, by labels or without any, the same way every time.

Networks here take float images in [0, 1]; images are kept as uint8 [N, C, H, W] and become float
one batch at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.sections import AugmentConfig, TrainingRecipe
from bigbatch_ue.data.source import Labels, Pixels
from bigbatch_ue.data.views import apply_views, draw_views
from bigbatch_ue.networks.inference import accuracy, autocast, to_channels_last, to_device, to_float
from bigbatch_ue.networks.recipe import rank_slice, reproducible, train_epochs

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class LearningCurve(NamedTuple):
    """After each epoch: accuracy on the test set (empty without one), and the mean train loss."""

    accuracies: list[float]
    losses: list[float]


def train_classifier(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    *,
    recipe: TrainingRecipe,
    augment: AugmentConfig,
    seed: int,
    device: torch.device,
    test: tuple[Pixels, Labels] | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
    transform: Transform | None = None,
    attack: Attack | None = None,
    ranks: Accelerator | None = None,
) -> LearningCurve:
    """Train `model` in place with cross-entropy; leaves it on `device` in evaluation mode.

    Args:
        model: maps float [M, C, H, W] in [0, 1] to logits [M, classes].
        images: uint8 [N, C, H, W], may be a memory map.
        labels: int64 [N] in 0 ... classes - 1.
        recipe: SGD with Nesterov momentum 0.9 or AdamW, epochs, batch, peak of the one-cycle rate,
            decay. Parameters that are frozen stay so.
        augment: padding of the random crop and flip; one view per image and epoch.
        seed: decides shuffles, views and dropout, together with nothing else.
        device: where to train; bfloat16 autocast on CUDA, float32 elsewhere.
        test: images and labels on which the accuracy is measured after each epoch, each image once.
        on_epoch: called with (epoch from 0, test accuracy or None) after each epoch.
        transform: what is done to each batch of views, uint8 [M, C, H, W], and its labels, int64
            [M]; gives images, uint8 or float in [0, 1], and labels or shares [M, classes].
        attack: maps (model, images, targets) to the images that are learned instead: adversarial
            training.
        ranks: whose processes train each batch together, by DDP; alone if None. Batch norm sees the
            whole batch on GPUs, a rank's part of it on CPUs.

    Raises:
        UserError: fewer than two images or a batch of one for each rank, or a loss that is no
            longer finite.
    """

    def loss(trained: nn.Module, chosen: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        batch, targets = to_device(images[chosen], device), to_device(labels[chosen], device)
        batch = apply_views(batch, draw_views(random, len(batch), augment), augment.pad)
        if transform is not None or attack is not None:
            torch.manual_seed(int(random.integers(2**63 - 1)))
        if transform is not None:
            batch, targets = transform(batch, targets)
        part = rank_slice(len(chosen), ranks)
        batch, targets = to_channels_last(to_float(batch[part])), targets[part]
        if attack is not None:
            batch = attack(model, batch, targets)
        with autocast(device):
            mean: Tensor = F.cross_entropy(trained(batch), targets)
        return mean * (len(targets) / len(chosen))

    curve = LearningCurve([], [])
    with reproducible(seed, recipe, device):
        for epoch, mean_loss in train_epochs(model, len(images), loss, recipe, seed, device, ranks):
            curve.losses.append(mean_loss)
            if test is not None:
                curve.accuracies.append(accuracy(model, *test, device, ranks))
            if on_epoch is not None:
                on_epoch(epoch, curve.accuracies[-1] if curve.accuracies else None)
    model.eval()
    return curve
