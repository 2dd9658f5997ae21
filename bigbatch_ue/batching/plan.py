"""The batch plan: from the effective batch B to ranks, micro-batches, steps and learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import OptimizerConfig
from bigbatch_ue.reporting.words import span

DEFAULT_MICRO_BATCH = {"cpu": 128, "cuda": 1024}
"""Micro-batch that `auto` tries first. It keeps the device busy; a larger one is no faster."""


def even_slice(total: int, parts: int, part: int) -> slice:
    """Return slice number `part` of `parts` of `range(total)`; sizes differ by at most one."""
    return slice(total * part // parts, total * (part + 1) // parts)


def even_sizes(total: int, parts: int) -> list[int]:
    """Return the sizes of `parts` slices of `range(total)`, which differ by at most one."""
    slices = (even_slice(total, parts, part) for part in range(parts))
    return [each.stop - each.start for each in slices]


@dataclass(frozen=True)
class BatchPlan:
    """The decomposition of an effective batch, and the number of steps.

    Attributes:
        requested: B as configured.
        per_generator: images of each generator in one step; B, or fewer under `extend: cap`.
        images_per_step: M, images through the surrogate in one step, over all ranks.
        world_size: number of ranks.
        micro: maximum number of images in a micro-batch.
        steps_per_epoch: steps in which the mean generator sees as many images as it has.
        steps: T, optimizer steps of the whole run.
        lr: peak learning rate after scaling.
        lr_reason: how `lr` was computed, in words.
        population: smallest and largest number of images that a generator draws from.
    """

    requested: int
    per_generator: tuple[int, ...]
    images_per_step: int
    world_size: int
    micro: int
    steps_per_epoch: int
    steps: int
    lr: float
    lr_reason: str
    population: tuple[int, int]

    @property
    def effective(self) -> int:
        """Largest batch of a generator."""
        return max(self.per_generator)

    @property
    def batch_in_words(self) -> str:
        """Effective batch of the generators, such as `25 to 28` where small clusters cap it."""
        return span(self.per_generator)

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of a rank in one step, equal on all ranks."""
        return math.ceil(math.ceil(self.images_per_step / self.world_size) / self.micro)

    def only(self, generators: slice) -> "BatchPlan":
        """Plan the same steps for some of the generators."""
        per_generator = self.per_generator[generators]
        return replace(self, per_generator=per_generator, images_per_step=sum(per_generator))

    def with_micro(self, micro: int) -> "BatchPlan":
        """Plan the same batches in micro-batches of at most `micro` images."""
        return replace(self, micro=micro)

    def rank_slice(self, rank: int) -> slice:
        """Return the slice of the global batch that `rank` computes."""
        return even_slice(self.images_per_step, self.world_size, rank)

    def micro_slices(self, rank: int) -> list[slice]:
        """Return the slice of the global batch of each micro-batch of `rank`; some may be empty."""
        own = self.rank_slice(rank)
        size = own.stop - own.start
        parts = (even_slice(size, self.micro_batches, i) for i in range(self.micro_batches))
        return [slice(own.start + part.start, own.start + part.stop) for part in parts]

    @property
    def largest_micro(self) -> int:
        """Number of images in the largest micro-batch."""
        parts = self.micro_slices(self.world_size - 1)  # no rank has more images than the last
        largest: int = max(part.stop - part.start for part in parts)
        return largest

    @property
    def warning(self) -> str | None:
        """Warning for the user if B reaches the number of images of a generator, else None."""
        smallest, largest = self.population
        if self.requested < smallest:
            return None
        images = span((smallest, largest))
        if self.effective == self.requested and max(self.per_generator) == min(self.per_generator):
            return (
                f"B = {self.requested:,} reaches a generator's {images} images: "
                "full-batch training, images repeat in more views (extend: views)"
            )
        return (
            f"B = {self.requested:,} reaches a generator's {images} images: capped to "
            f"{self.batch_in_words} (extend: cap); "
            "batch.extend=views repeats images in more views instead"
        )


def make_plan(config: Config, sizes: Sequence[int], world_size: int) -> BatchPlan:
    """Plan the batches of a run.

    Args:
        config: the resolved configuration.
        sizes: images in each of the p clusters.
        world_size: number of ranks.
    """
    batch, budget = config.batch, config.budget
    population = list(sizes) if batch.scope == "cluster" else [sum(sizes)] * len(sizes)
    per_generator = tuple(
        min(batch.effective, size) if batch.extend == "cap" else batch.effective
        for size in population
    )
    mean_population = sum(population) / len(population)
    steps_per_epoch = math.ceil(mean_population / max(per_generator))
    lr, reason = scaled_lr(config.optimizer, max(per_generator))
    return BatchPlan(
        requested=batch.effective,
        per_generator=per_generator,
        images_per_step=sum(per_generator),
        world_size=world_size,
        micro=DEFAULT_MICRO_BATCH["cpu"] if batch.micro == "auto" else batch.micro,
        steps_per_epoch=steps_per_epoch,
        steps=budget.steps if budget.kind == "steps" else budget.epochs * steps_per_epoch,
        lr=lr,
        lr_reason=reason,
        population=(min(population), max(population)),
    )


def scaled_lr(optimizer: OptimizerConfig, effective: int) -> tuple[float, str]:
    """Compute the peak learning rate at batch `effective`, and say how in words."""
    ratio = effective / optimizer.reference_batch
    match optimizer.lr_rule:
        case "none":
            return optimizer.lr, f"{optimizer.lr:g}, not scaled with B"
        case "sqrt":
            lr = optimizer.lr * math.sqrt(ratio)
        case "linear":
            lr = optimizer.lr * ratio
    shape = "sqrt" if optimizer.lr_rule == "sqrt" else ""
    return lr, f"{lr:.3g} = {optimizer.lr:g} x {shape}({effective}/{optimizer.reference_batch})"


def lr_at(step: int, plan: BatchPlan, optimizer: OptimizerConfig) -> float:
    """Compute the learning rate of step `step` (from 0): constant, or half a cosine to `min_lr`.

    The cosine is the closed form of Loshchilov and Hutter, SGDR (ICLR 2017), equation 5.
    """
    if optimizer.schedule == "constant":
        return plan.lr
    floor = min(optimizer.min_lr, plan.lr)
    return floor + (plan.lr - floor) * (1 + math.cos(math.pi * step / plan.steps)) / 2
