"""The training recipe of classifiers and encoders: epochs of SGD or AdamW with a one-cycle rate."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.config.sections import AugmentConfig, TrainingRecipe
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw, torch_seed

MIN_IMAGES_PER_RANK = 2
WARM_UP = 0.3

BatchLoss = Callable[[nn.Module, NDArray[np.int64], np.random.Generator], Tensor]
"""The (wrapped) network, indices of a batch and a random generator to the batch's mean loss."""


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of one training: its recipe, views and seed, and where it runs.

    Attributes:
        recipe: optimizer (SGD with Nesterov momentum 0.9, or AdamW), epochs, batch, peak of the
            one-cycle rate, weight decay.
        augment: padding of the random crop, and flip; one view per image and epoch.
        seed: the only source of randomness (shuffles, views, dropout).
        device: where to train: in bfloat16 autocast where the hardware multiplies it, else float32.
        ranks: ranks that train each batch together by DDP; None: this process alone. On GPUs, batch
            norm sees the whole batch; on CPUs, each rank's part.
    """

    recipe: TrainingRecipe
    augment: AugmentConfig
    seed: int
    device: torch.device
    ranks: Accelerator | None = None

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.ranks.num_processes if self.ranks else 1

    def rank_slice(self, count: int) -> slice:
        """Return this rank's part of a batch of `count` images."""
        return even_slice(count, self.world_size, self.ranks.process_index if self.ranks else 0)


def one_cycle(step: int, steps: int) -> float:
    """Return the fraction of the peak rate at `step` of `steps`.

    It rises linearly in the warm-up, then falls to zero as a cosine: super-convergence (Smith and
    Topin, 2018, arXiv 1708.07120) with constant momentum.
    """
    position, peak = step + 1, WARM_UP * steps
    if position <= peak:
        return position / peak
    return (1 + math.cos(math.pi * (position - peak) / (steps + 1 - peak))) / 2


def cut_into_batches(
    order: NDArray[np.int64], size: int, smallest: int = MIN_IMAGES_PER_RANK
) -> list[NDArray[np.int64]]:
    """Cut `order` into batches of `size`; merge a last one below `smallest` with its predecessor.

    Batch norm cannot divide by the variance of a single image.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < smallest:
        cuts.pop()
    return np.split(order, cuts)


def training_steps(recipe: TrainingRecipe, count: int, world_size: int = 1) -> int:
    """Count the optimizer steps of `recipe` on `count` images when ranks divide each batch."""
    return recipe.epochs * len(
        cut_into_batches(np.arange(count), recipe.batch, MIN_IMAGES_PER_RANK * world_size)
    )


def train_epochs(
    model: nn.Module,
    count: int,
    loss: BatchLoss,
    settings: TrainingSettings,
    on_images: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, float]]:
    """Train `model` on `count` images and yield (epoch, mean loss) after each epoch.

    `on_images` is called with the number of images of each batch after it.

    Raises:
        UserError: fewer than two images in a batch for each rank, or a loss that is not finite.
    """
    recipe, ranks, world_size = settings.recipe, settings.ranks, settings.world_size
    smallest = MIN_IMAGES_PER_RANK * world_size
    if min(count, recipe.batch) < smallest:
        each_rank = f" on each of {world_size} ranks" if world_size > 1 else ""
        raise UserError(
            f"fit.batch={recipe.batch} on {counted(count, 'image')}: training needs at least "
            f"{MIN_IMAGES_PER_RANK} in each batch{each_rank}; raise fit.batch or use more images"
        )
    model.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    wrapped = _distribute(model, ranks)
    optimizer = _optimizer(model, recipe)
    steps = training_steps(recipe, count, world_size)
    step = 0
    for epoch in range(recipe.epochs):
        random = draw(settings.seed, Purpose.FIT, epoch)
        wrapped.train()
        total = torch.zeros((), device=settings.device)
        for batch in cut_into_batches(random.permutation(count), recipe.batch, smallest):
            mean = loss(wrapped, batch, random)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * one_cycle(step, steps)
            optimizer.zero_grad()
            summed = mean * world_size  # DDP averages over ranks
            summed.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += mean.detach() * len(batch)
            step += 1
            if on_images is not None:
                on_images(len(batch))
        epoch_loss = float(ranks.reduce(total, "sum") if ranks else total) / count
        if not math.isfinite(epoch_loss):
            raise UserError(
                f"fit.lr={recipe.lr:g}: training diverged in epoch {epoch + 1}; lower it"
            )
        yield epoch, epoch_loss
    if ranks:
        ranks.free_memory()


def _optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trainable, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(trainable, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def _distribute(model: nn.Module, ranks: Accelerator | None) -> nn.Module:
    """Wrap `model` so that all `ranks` train it together."""
    if ranks is None:
        return model
    if ranks.device.type == "cuda":
        convert_sync_batchnorm(model)
    wrapped: nn.Module = ranks.prepare_model(model)
    return wrapped


@contextmanager
def reproducible(settings: TrainingSettings) -> Iterator[None]:
    """Seed torch's own draws (dropout, views, head), with an index that no epoch's shuffle has."""
    devices = [settings.device] if settings.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(torch_seed(settings.seed, Purpose.FIT, settings.recipe.epochs))
        yield
