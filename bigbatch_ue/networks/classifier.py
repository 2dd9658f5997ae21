"""Train a network from scratch, by labels or without any, the same way every time.

Networks here take float images in [0, 1]; images are kept as uint8 [N, C, H, W] and become float
one batch at a time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torchvision.transforms import v2

from bigbatch_ue.config.schema import Augment, Fit
from bigbatch_ue.data.views import apply_views, draw_views
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw, torch_seed

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

LEAST = 2
WARM_UP = 0.3
TEMPERATURE = 0.5
PROJECTION = 128


class Curve(NamedTuple):
    """After each epoch: accuracy on the test set (empty without one), and the mean train loss."""

    accuracies: list[float]
    losses: list[float]


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
    transform: Transform | None = None,
    attack: Attack | None = None,
    ranks: Accelerator | None = None,
) -> Curve:
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
        batch, targets = load(images[chosen], device), load(labels[chosen], device)
        batch = apply_views(batch, draw_views(random, len(batch), augment), augment.pad)
        if transform is not None or attack is not None:
            torch.manual_seed(int(random.integers(2**63 - 1)))
        if transform is not None:
            batch, targets = transform(batch, targets)
        part = _part(len(chosen), ranks)
        batch, targets = _laid_out(pixels(batch[part])), targets[part]
        if attack is not None:
            batch = attack(model, batch, targets)
        with _autocast(device):
            mean: Tensor = F.cross_entropy(trained(batch), targets)
        return mean * (len(targets) / len(chosen))

    curve = Curve([], [])
    with _reproducible(seed, recipe, device):
        for epoch, mean_loss in _epochs(model, len(images), loss, recipe, seed, device, ranks):
            curve.losses.append(mean_loss)
            if test is not None:
                curve.accuracies.append(accuracy(model, *test, device, ranks))
            if on_epoch is not None:
                on_epoch(epoch, curve.accuracies[-1] if curve.accuracies else None)
    model.eval()
    return curve


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

    def loss(trained: nn.Module, chosen: NDArray[np.int64], _: np.random.Generator) -> Tensor:
        batch = load(images[chosen], device)
        views = torch.stack([transform(image) for image in (*batch, *batch)])
        with _autocast(device):
            return nt_xent(trained(_laid_out(views)), TEMPERATURE)

    losses = []
    with _reproducible(seed, recipe, device):
        width = outputs(model, images, device)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
        both = nn.Sequential(model, head)
        for epoch, mean_loss in _epochs(both, len(images), loss, recipe, seed, device):
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


def predict(
    model: nn.Module,
    images: Images,
    device: torch.device,
    ranks: Accelerator | None = None,
    batch: int = 256,
) -> Tensor:
    """The probability that `model` gives each class, for `images` uint8 [N, C, H, W].

    Batches are cut in one way, whatever the ranks, and each is done by one of them. Leaves `model`
    in evaluation mode.

    Returns:
        float32 [N, classes] on the CPU, in the order of the images, the same on every rank.
    """
    model.eval()
    rank, world = (ranks.process_index, ranks.num_processes) if ranks else (0, 1)
    for buffer in model.buffers() if world > 1 else ():
        broadcast(buffer)
    with torch.no_grad(), _autocast(device):
        whole = torch.zeros(len(images), outputs(model, images, device), device=device)
        for start in list(range(0, len(images), batch))[rank::world]:
            part = slice(start, start + batch)
            logits = model(_laid_out(pixels(load(images[part], device))))
            whole[part] = logits.float().softmax(1)
    return whole.cpu() if ranks is None else ranks.reduce(whole, "sum").cpu()


def accuracy(
    model: nn.Module,
    images: Images,
    labels: Labels,
    device: torch.device,
    ranks: Accelerator | None = None,
) -> float:
    """The fraction of all `images` [N, C, H, W] that `model` gives their label, each once."""
    from torchmetrics.classification import MulticlassAccuracy  # a second to import

    found, expected = predict(model, images, device, ranks), torch.from_numpy(np.array(labels))
    metric = MulticlassAccuracy(num_classes=found.shape[1], average="micro")
    return float(metric(found.argmax(1), expected))


def pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255, float is left alone."""
    return images if images.is_floating_point() else images.float() / 255


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak rate at `step` of `steps`: linear warm-up, then a cosine down to zero.

    Super-convergence (Smith and Topin, 2018, arXiv 1708.07120), momentum held constant.
    """
    position, peak = step + 1, WARM_UP * steps
    if position <= peak:
        return position / peak
    return (1 + math.cos(math.pi * (position - peak) / (steps + 1 - peak))) / 2


def batches(order: NDArray[np.int64], size: int, least: int = LEAST) -> list[NDArray[np.int64]]:
    """Cut `order` into runs of `size`; a last run of less than `least` joins the run before it.

    One image has no variance for batch norm to divide by.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < least:
        cuts.pop()
    return np.split(order, cuts)


def steps_of(recipe: Fit, count: int, world: int = 1) -> int:
    """Optimizer steps of `recipe` on `count` images, when `world` ranks share each batch."""
    return recipe.epochs * len(batches(np.arange(count), recipe.batch, LEAST * world))


def _epochs(
    model: nn.Module,
    count: int,
    loss: Callable[[nn.Module, NDArray[np.int64], np.random.Generator], Tensor],
    recipe: Fit,
    seed: int,
    device: torch.device,
    ranks: Accelerator | None = None,
) -> Iterator[tuple[int, float]]:
    """Train `model` on `count` images and yield (epoch, mean loss) after each epoch."""
    world = ranks.num_processes if ranks else 1
    if min(count, recipe.batch) < LEAST * world:
        raise UserError(
            f"{count} images in batches of {recipe.batch}: training needs at least {LEAST} in each"
            + (f" on each of {world} ranks" if world > 1 else "")
        )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = _distributed(model, ranks)
    optimizer = _optimizer(model, recipe)
    steps = steps_of(recipe, count, world)
    step = 0
    for epoch in range(recipe.epochs):
        random = draw(seed, Purpose.FIT, epoch)
        trained.train()
        total = torch.zeros((), device=device)
        for chosen in batches(random.permutation(count), recipe.batch, LEAST * world):
            value = loss(trained, chosen, random)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * one_cycle(step, steps)
            optimizer.zero_grad()
            summed = value * world  # DDP averages over ranks
            summed.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.detach() * len(chosen)
            step += 1
        mean_loss = float(ranks.reduce(total, "sum") if ranks else total) / count
        if not math.isfinite(mean_loss):
            raise UserError(
                f"training diverged in epoch {epoch + 1}: lower fit.lr (now {recipe.lr:g})"
            )
        yield epoch, mean_loss
    if ranks:
        ranks.free_memory()


def _optimizer(model: nn.Module, recipe: Fit) -> torch.optim.Optimizer:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(learned, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(learned, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def _distributed(model: nn.Module, ranks: Accelerator | None) -> nn.Module:
    """`model` as all `ranks` train it together."""
    if ranks is None:
        return model
    if ranks.device.type == "cuda":
        convert_sync_batchnorm(model)
    wrapped: nn.Module = ranks.prepare_model(model)
    return wrapped


def _part(count: int, ranks: Accelerator | None) -> slice:
    """This rank's part of a batch of `count` images."""
    if ranks is None:
        return slice(count)
    cuts = [count * rank // ranks.num_processes for rank in range(ranks.num_processes + 1)]
    return slice(*cuts[ranks.process_index : ranks.process_index + 2])


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


@torch.no_grad()
def outputs(model: nn.Module, images: Images, device: torch.device) -> int:
    """How many values `model`, in evaluation mode from here on, gives for each image."""
    return int(model.to(device).eval()(pixels(load(images[:1], device))).shape[1])


def load(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of `array` on `device`."""
    return torch.from_numpy(np.array(array)).to(device)


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
