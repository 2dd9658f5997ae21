"""Train a network from scratch, by labels or without any, the same way every time.

Networks here take float images in [0, 1]; images are kept as uint8 [N, C, H, W] and become float
one batch at a time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from bigbatch_ue.augment import apply_views, draw_views
from bigbatch_ue.config import Augment, Fit
from bigbatch_ue.errors import UserError
from bigbatch_ue.randomness import Purpose, draw, torch_seed

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

WARM_UP = 0.3
TEMPERATURE = 0.5
PROJECTION = 128


def train_classifier(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    recipe: Fit,
    augment: Augment,
    seed: int,
    device: torch.device,
    test: tuple[Images, Labels] | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
) -> list[float]:
    """Train `model` in place with cross-entropy; leaves it on `device` in evaluation mode.

    Args:
        model: maps float [M, C, H, W] in [0, 1] to logits [M, classes].
        images: uint8 [N, C, H, W], may be a memory map.
        labels: int64 [N] in 0 ... classes - 1.
        recipe: SGD with Nesterov momentum 0.9, epochs, batch, peak of the one-cycle rate, decay.
        augment: padding of the random crop and flip; one view per image and epoch.
        seed: decides shuffles, views and dropout, together with nothing else.
        device: where to train; bfloat16 autocast on CUDA, float32 elsewhere.
        test: images and labels on which the accuracy is measured after each epoch, each image once.
        on_epoch: called with (epoch from 0, test accuracy or None) after each epoch.

    Returns:
        The test accuracy after each epoch, a fraction; empty without `test`.

    Raises:
        UserError: fewer than two images or a batch of one, or a loss that is no longer finite.
    """

    def loss(batch: Tensor, chosen: NDArray[np.int64]) -> Tensor:
        return F.cross_entropy(model(batch), torch.from_numpy(labels[chosen]).to(device))

    def view(batch: Tensor, random: np.random.Generator) -> Tensor:
        return pixels(apply_views(batch, draw_views(random, len(batch), augment), augment.pad))

    accuracies = []
    with _reproducible(seed, recipe, device):
        for epoch, _ in _epochs(model, images, view, loss, recipe, seed, device):
            if test is not None:
                accuracies.append(accuracy(model, *test, device))
            if on_epoch is not None:
                on_epoch(epoch, accuracies[-1] if accuracies else None)
    model.eval()
    return accuracies


def train_simclr(
    model: nn.Module,
    images: Images,
    *,
    recipe: Fit,
    augment: Augment,
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

    def view(batch: Tensor, _: np.random.Generator) -> Tensor:
        return torch.stack([transform(image) for image in (*batch, *batch)])

    def loss(batch: Tensor, _: NDArray[np.int64]) -> Tensor:
        return nt_xent(trained(batch), TEMPERATURE)

    losses = []
    with _reproducible(seed, recipe, device):
        width = _feature_size(model, images, device)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
        trained = nn.Sequential(model, head)
        for epoch, mean_loss in _epochs(trained, images, view, loss, recipe, seed, device):
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


@torch.inference_mode()
def predict(model: nn.Module, images: Images, device: torch.device, batch: int = 512) -> Tensor:
    """The class that `model` finds for each of `images` uint8 [N, C, H, W]: int64 [N] on the CPU.

    Leaves `model` in evaluation mode.
    """
    model.eval()
    found = []
    for start in range(0, len(images), batch):
        with _autocast(device):
            logits = model(_laid_out(pixels(_load(images[start : start + batch], device))))
        found.append(logits.argmax(1).cpu())
    return torch.cat(found)


def accuracy(model: nn.Module, images: Images, labels: Labels, device: torch.device) -> float:
    """The fraction of all `images` [N, C, H, W] that `model` gives their label, each once."""
    predicted, expected = predict(model, images, device), torch.from_numpy(np.array(labels))
    classes = max(int(predicted.max()), int(expected.max()), 1) + 1
    metric = MulticlassAccuracy(num_classes=classes, average="micro")
    return float(metric(predicted, expected))


def pixels(images: Tensor) -> Tensor:
    """Images uint8 as float32 in [0, 1]."""
    return images.float() / 255


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak rate at `step` of `steps`: linear warm-up, then a cosine down to zero.

    Super-convergence (Smith and Topin, 2018, arXiv 1708.07120), momentum held constant.
    """
    position, peak = step + 1, WARM_UP * steps
    if position <= peak:
        return position / peak
    return (1 + math.cos(math.pi * (position - peak) / (steps + 1 - peak))) / 2


def batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut `order` into runs of `size`; a last run of one image joins the run before it.

    One image has no variance for batch norm to divide by.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def _epochs(
    model: nn.Module,
    images: Images,
    view: Callable[[Tensor, np.random.Generator], Tensor],
    loss: Callable[[Tensor, NDArray[np.int64]], Tensor],
    recipe: Fit,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[int, float]]:
    """Train `model` and yield (epoch, mean loss) after each epoch."""
    if min(len(images), recipe.batch) < 2:
        raise UserError(
            f"{len(images)} images in batches of {recipe.batch}: training needs at least 2 in each"
        )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * len(batches(np.arange(len(images)), recipe.batch))
    step = 0
    for epoch in range(recipe.epochs):
        random = draw(seed, Purpose.FIT, epoch)
        model.train()
        total = torch.zeros((), device=device)
        for chosen in batches(random.permutation(len(images)), recipe.batch):
            batch = _laid_out(view(_load(images[chosen], device), random))
            with _autocast(device):
                value = loss(batch, chosen)
            optimizer.param_groups[0]["lr"] = recipe.lr * one_cycle(step, steps)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.detach() * len(chosen)
            step += 1
        mean_loss = float(total) / len(images)
        if not math.isfinite(mean_loss):
            raise UserError(
                f"training diverged in epoch {epoch + 1}: lower fit.lr (now {recipe.lr:g})"
            )
        yield epoch, mean_loss


@contextmanager
def _reproducible(seed: int, recipe: Fit, device: torch.device) -> Iterator[None]:
    """Seed torch's own draws (dropout, views, head), with an index that no epoch's shuffle has."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(torch_seed(seed, Purpose.FIT, recipe.epochs))
        yield


@torch.inference_mode()
def _feature_size(model: nn.Module, images: Images, device: torch.device) -> int:
    return int(model.to(device).eval()(pixels(_load(images[:1], device))).shape[1])


def _load(images: Images, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(images)).to(device)


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
