"""The training recipe of classifiers and encoders: epochs of SGD or AdamW at a one-cycle rate."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from bigbatch_ue.batching.plan import even_slice
from bigbatch_ue.config.sections import TrainingRecipe
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw, torch_seed

MIN_IMAGES_PER_RANK = 2
WARM_UP = 0.3


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak rate at `step` of `steps`: linear warm-up, then a cosine down to zero.

    Super-convergence (Smith and Topin, 2018, arXiv 1708.07120), momentum held constant.
    """
    position, peak = step + 1, WARM_UP * steps
    if position <= peak:
        return position / peak
    return (1 + math.cos(math.pi * (position - peak) / (steps + 1 - peak))) / 2


def cut_into_batches(
    order: NDArray[np.int64], size: int, least: int = MIN_IMAGES_PER_RANK
) -> list[NDArray[np.int64]]:
    """Cut `order` into runs of `size`; a last run of less than `least` joins the run before it.

    One image has no variance for batch norm to divide by.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < least:
        cuts.pop()
    return np.split(order, cuts)


def training_steps(recipe: TrainingRecipe, count: int, world: int = 1) -> int:
    """Optimizer steps of `recipe` on `count` images, when `world` ranks share each batch."""
    return recipe.epochs * len(
        cut_into_batches(np.arange(count), recipe.batch, MIN_IMAGES_PER_RANK * world)
    )


def train_epochs(
    model: nn.Module,
    count: int,
    loss: Callable[[nn.Module, NDArray[np.int64], np.random.Generator], Tensor],
    recipe: TrainingRecipe,
    seed: int,
    device: torch.device,
    ranks: Accelerator | None = None,
) -> Iterator[tuple[int, float]]:
    """Train `model` on `count` images and yield (epoch, mean loss) after each epoch."""
    world = ranks.num_processes if ranks else 1
    if min(count, recipe.batch) < MIN_IMAGES_PER_RANK * world:
        raise UserError(
            f"{count} images in batches of {recipe.batch}: training needs at least "
            f"{MIN_IMAGES_PER_RANK} in each" + (f" on each of {world} ranks" if world > 1 else "")
        )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = _distributed(model, ranks)
    optimizer = _optimizer(model, recipe)
    steps = training_steps(recipe, count, world)
    step = 0
    for epoch in range(recipe.epochs):
        random = draw(seed, Purpose.FIT, epoch)
        trained.train()
        total = torch.zeros((), device=device)
        for chosen in cut_into_batches(
            random.permutation(count), recipe.batch, MIN_IMAGES_PER_RANK * world
        ):
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


def _optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
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


def rank_slice(count: int, ranks: Accelerator | None) -> slice:
    """This rank's part of a batch of `count` images."""
    if ranks is None:
        return slice(count)
    return even_slice(count, ranks.num_processes, ranks.process_index)


@contextmanager
def reproducible(seed: int, recipe: TrainingRecipe, device: torch.device) -> Iterator[None]:
    """Seed torch's own draws (dropout, views, head), with an index that no epoch's shuffle has."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(torch_seed(seed, Purpose.FIT, recipe.epochs))
        yield
