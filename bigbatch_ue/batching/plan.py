"""The batch plan: from the effective batch B to ranks, micro-batches, steps and learning rate."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bigbatch_ue.batching.schedule import BatchSchedule, configured_schedule
from bigbatch_ue.batching.step_plan import StepPlan
from bigbatch_ue.config.batch_section import BatchConfig
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import BudgetConfig, OptimizerConfig
from bigbatch_ue.reporting.words import counted, span
from bigbatch_ue.runs.result import ChosenBatch
from bigbatch_ue.runtime.errors import UserError

DEFAULT_MICRO_BATCH = {"cpu": 128, "cuda": 1024}
"""Micro-batch that `auto` tries first. It keeps the device busy; a larger one is no faster."""

AUTO_FIRST_BATCH, AUTO_STEPS = 64, 20
"""B of the first steps with `batch.effective=auto`, and their number, at most a fifth of all."""
_ENDLESS = 2**62
"""More steps than any run has."""


@dataclass(frozen=True)
class BatchPlan:
    """The effective batches of a run, their decomposition, and the number of steps.

    Attributes:
        schedule: B of every step.
        population: images that each generator of the bank draws from.
        generators: the generators that are planned.
        world_size: number of ranks.
        micro: maximum number of images in a micro-batch.
        batch: scope and extension.
        budget: length of the training.
        optimizer: learning rate and its rule.
        choice_step: with `batch.effective=auto`, the step before which B is chosen; until then, the
            plan goes on with the first B. None if nothing is left to be chosen.
    """

    schedule: BatchSchedule
    population: tuple[int, ...]
    generators: slice
    world_size: int
    micro: int
    batch: BatchConfig
    budget: BudgetConfig
    optimizer: OptimizerConfig
    choice_step: int | None = None

    def at(self, step: int) -> StepPlan:
        """Plan one step, counted from 0."""
        return self._with(self.schedule.at(step))

    def _with(self, requested: int) -> StepPlan:
        taken = [min(requested, limit) for limit in self._limits]
        lr, reason = scaled_lr(self.optimizer, max(taken))
        return StepPlan(
            requested=requested,
            per_generator=tuple(taken[self.generators]),
            world_size=self.world_size,
            micro=self.micro,
            steps_per_epoch=math.ceil(self._mean_population / max(taken)),
            lr=lr,
            lr_reason=reason,
        )

    @property
    def _limits(self) -> tuple[int, ...]:
        """Largest batch of each generator."""
        if self.batch.extend == "cap":
            return self.population
        return (max(self.schedule.batches),) * len(self.population)

    @property
    def _mean_population(self) -> float:
        return sum(self.population) / len(self.population)

    def segments(self) -> Iterator[tuple[range, StepPlan]]:
        """Yield the segments of equal B, each with the plan of its steps."""
        for steps, batch in self.schedule.segments(self.steps):
            yield steps, self._with(batch)

    @cached_property
    def steps(self) -> int:
        """T, optimizer steps of the whole run.

        In an epoch, the mean generator sees as many images as it has; it ends with a step, also
        where B changes within it.
        """
        if self.budget.kind == "steps":
            return self.budget.steps
        taken, left, seen, limit = 0, self.budget.epochs, 0, max(self._limits)
        for segment, requested in self.schedule.segments(_ENDLESS):
            batch, room = min(requested, limit), len(segment)
            if seen:  # an epoch that began at another B
                rest = math.ceil((self._mean_population - seen) / batch)
                if rest > room:
                    taken, seen = taken + room, seen + room * batch
                    continue
                taken, room, left, seen = taken + rest, room - rest, left - 1, 0
            epoch = math.ceil(self._mean_population / batch)
            whole = min(left, room // epoch)
            taken, left = taken + whole * epoch, left - whole
            if left == 0:
                return taken
            seen = (room - whole * epoch) * batch
            taken += room - whole * epoch
        raise AssertionError("the last segment has no end")

    @property
    def requested(self) -> int:
        """B as configured; the last one of a schedule."""
        return self.schedule.batches[-1]

    @property
    def is_constant(self) -> bool:
        """Whether B is the same in every step."""
        return len(self.schedule.segments(self.steps)) == 1

    @property
    def is_capped(self) -> bool:
        """Whether a generator has too few images for the largest B."""
        return set(self.largest.per_generator) != {self.largest.requested}

    @property
    def per_generator(self) -> tuple[int, ...]:
        """Images of each generator in a step; with a schedule, the mean over steps, rounded."""
        limits = self._limits[self.generators]
        means = {
            limit: _rounded_mean(self.schedule.total(self.steps, limit), self.steps)
            for limit in set(limits)
        }
        return tuple(means[limit] for limit in limits)

    @property
    def effective(self) -> int:
        """Largest batch of a generator; with a schedule, its mean over steps, rounded."""
        return max(self.per_generator)

    @property
    def batch_in_words(self) -> str:
        """Effective batch of the generators, such as `25 to 28` where small clusters cap it."""
        batches = span(n for _, step in self.segments() for n in step.per_generator)
        return batches if self.is_constant else f"{batches} (mean {self.effective:,})"

    @property
    def images(self) -> int:
        """Images through the surrogate in all steps."""
        return self.images_before(self.steps)

    def images_before(self, step: int) -> int:
        """Return the images through the surrogate in the first `step` steps."""
        limits = Counter(self._limits[self.generators])
        return sum(n * self.schedule.total(step, limit) for limit, n in limits.items())

    @property
    def micro_batches(self) -> int:
        """Largest number of micro-batches of a rank in a step."""
        return max(step.micro_batches for _, step in self.segments())

    @property
    def fullest_step(self) -> int:
        """A step with the largest micro-batch."""
        return max(self.segments(), key=lambda segment: segment[1].largest_micro)[0].start

    @property
    def largest_micro(self) -> int:
        """Number of images in the largest micro-batch."""
        return self.at(self.fullest_step).largest_micro

    @property
    def lr(self) -> float:
        """Peak learning rate, scaled with the largest B."""
        return self.largest.lr

    @property
    def largest(self) -> StepPlan:
        """The plan of a step with the largest B."""
        return self._with(max(batch for _, batch in self.schedule.segments(self.steps)))

    def only(self, generators: slice) -> "BatchPlan":
        """Plan the same steps for some of the generators."""
        return replace(self, generators=generators)

    def with_micro(self, micro: int) -> "BatchPlan":
        """Plan the same batches in micro-batches of at most `micro` images."""
        return replace(self, micro=micro)

    def choose(self, noise_scale: float | None) -> ChosenBatch:
        """Choose B: the power of two next to the noise scale, or the mean generator's images.

        Args:
            noise_scale: in images; None if it could not be told, so that the first B stays.
        """
        assert self.choice_step is not None, "there is nothing to choose"
        first = batch = self.schedule.batches[0]
        if noise_scale is not None:
            power = 2 ** round(math.log2(max(noise_scale, 1)))
            batch = min(power, math.ceil(self._mean_population))
        return ChosenBatch(batch, first, self.choice_step, noise_scale)

    def with_choice(self, chosen: ChosenBatch) -> "BatchPlan":
        """Plan the steps of a run whose B has been chosen."""
        schedule = configured_schedule(self.batch, chosen)
        return replace(self, schedule=schedule, choice_step=None)

    @property
    def choice_in_words(self) -> str | None:
        """What `batch.effective=auto` will do; None if nothing is left to be chosen."""
        if self.choice_step is None:
            return None
        steps = ", and with it the number of steps" if self.budget.kind == "epochs" else ""
        return (
            f"batch.effective=auto: starts with B = {self.requested:,}; after "
            f"{counted(self.choice_step, 'step')} the gradient noise scale chooses B{steps}"
        )

    @property
    def warning(self) -> str | None:
        """Warning for the user, else None.

        B reaches the number of images of a generator, or the run ends before its schedule.
        """
        return "; ".join(filter(None, (self._full_batch, self._unreached))) or None

    @property
    def _full_batch(self) -> str | None:
        largest = self.largest
        smallest = min(self.population)
        if largest.requested < smallest:
            return None
        images = span((smallest, max(self.population)))
        if not self.is_capped:
            return (
                f"B = {largest.requested:,} reaches a generator's {images} images: full-batch "
                f"training{', images repeat in more views' if largest.requested > smallest else ''}"
            )
        return (
            f"B = {largest.requested:,} reaches a generator's {images} images: capped to "
            f"{span(largest.per_generator)} (extend: cap); "
            "batch.extend=views repeats images in more views instead"
        )

    @property
    def _unreached(self) -> str | None:
        start = self.schedule.starts[-1]
        if start < self.steps:
            return None
        return (
            f"batch.schedule: reaches B = {self.requested:,} after {counted(start, 'step')}, but "
            f"the run has {self.steps:,} and ends at B = {self.schedule.at(self.steps - 1):,}; "
            "give it a longer budget, or the schedule fewer steps"
        )


def _rounded_mean(total: int, count: int) -> int:
    return (2 * total + count) // (2 * count)


def make_plan(
    config: Config, sizes: Sequence[int], world_size: int, chosen: ChosenBatch | None = None
) -> BatchPlan:
    """Plan the batches of a run.

    Args:
        config: the resolved configuration.
        sizes: images in each of the p clusters.
        world_size: number of ranks.
        chosen: what `batch.effective=auto` has chosen; None if it has yet to choose.

    Raises:
        UserError: `batch.effective=auto` has too few steps to choose.
    """
    batch = config.batch
    population = tuple(sizes) if batch.scope == "cluster" else (sum(sizes),) * len(sizes)
    undecided = batch.effective == "auto" and chosen is None
    first = min(AUTO_FIRST_BATCH, math.ceil(sum(population) / len(population)))
    schedule = BatchSchedule.constant(first) if undecided else configured_schedule(batch, chosen)
    plan = BatchPlan(
        schedule=schedule,
        population=population,
        generators=slice(None),
        world_size=world_size,
        micro=DEFAULT_MICRO_BATCH["cpu"] if batch.micro == "auto" else batch.micro,
        batch=batch,
        budget=config.budget,
        optimizer=config.optimizer,
    )
    if not undecided:
        return plan
    if plan.steps == 1:
        raise UserError(
            "batch.effective=auto: the run has a single step, and chooses after one; "
            "give it a longer budget, or a number"
        )
    return replace(plan, choice_step=min(AUTO_STEPS, math.ceil(plan.steps / 5)))


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


def lr_at(step: int, plan: BatchPlan) -> float:
    """Compute the learning rate of step `step` (from 0): constant, or half a cosine to `min_lr`.

    The peak is that of the step's B. The cosine is the closed form of Loshchilov and Hutter, SGDR
    (ICLR 2017), equation 5.
    """
    optimizer, peak = plan.optimizer, plan.at(step).lr
    if optimizer.schedule == "constant":
        return peak
    floor = min(optimizer.min_lr, peak)
    return floor + (peak - floor) * (1 + math.cos(math.pi * step / plan.steps)) / 2
