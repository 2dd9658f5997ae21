"""The training loop: optimizer steps from a checkpoint to the last one, or until told to stop."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bigbatch_ue.batching.loader import MicroBatchLoader
from bigbatch_ue.batching.micro_batch import (
    MicroBatchTooLargeError,
    halve_micro_batch,
    remember_micro_batch,
)
from bigbatch_ue.batching.plan import BatchPlan, lr_at
from bigbatch_ue.batching.sampler import GlobalBatch, Sampler
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import CheckpointConfig
from bigbatch_ue.runs.checkpoints import Checkpoint, save_checkpoint
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.runtime.accelerator import max_over_ranks
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.signals import Interrupted, StopRequest
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.gradient import Loss, NonFiniteError, delta_step, engine_step
from bigbatch_ue.training.noise_monitor import NoiseMonitor, NoiseSchedule
from bigbatch_ue.training.step_log import StepLog

MAX_CONSECUTIVE_SKIPS = 10
"""Steps in a row that may be skipped before the run is given up."""
_GO_ON, _SAVE, _STOP = range(3)


@dataclass(frozen=True)
class TrainingJob:
    """What one run trains, before any engine has it: the generators `rows` of the bank."""

    config: Config
    rows: slice
    plan: BatchPlan
    sampler: Sampler
    loader: MicroBatchLoader
    loss: Loss


class StepOutcome(NamedTuple):
    """What came of one optimizer step.

    Attributes:
        losses: of each generator [p]; NaN where it was skipped.
        noise: on the delta path, estimates of the gradient's noise, by `delta` and, where they
            were asked for, `parameters`.
        measuring: seconds that the latter took.
        plan: in micro-batches that fitted.
        skipped: generators for whose sake the step was skipped.
    """

    losses: Tensor
    noise: dict[str, Moments]
    measuring: float
    plan: BatchPlan
    skipped: Sequence[int] = ()


class TrainingOutcome(NamedTuple):
    """What came of all steps: as the last step left it, and how many were skipped."""

    losses: Tensor
    delta: Tensor
    plan: BatchPlan
    skipped: int


def optimise(
    job: TrainingJob, run: Run, engine: Engine, start: Checkpoint, stop: StopRequest
) -> TrainingOutcome:
    """Take the optimizer steps from `start` on, with checkpoints.

    Returns:
        The last step's loss of each generator [p], the perturbations [p, C, H, W], the plan that
        fitted, and how many steps were skipped.

    Raises:
        Interrupted: on every rank, when `stop` says so on any; a checkpoint has been written.
        UserError: a loss is not finite, and steps are not to be skipped (any more).
    """
    config, plan, accelerator = job.config, job.plan, engine.accelerator
    tracker = (
        StepLog(run, start.step, plan.images_per_step)
        if accelerator.is_main_process
        else nullcontext()
    )
    schedule = NoiseSchedule(config.noise.every, start.step)
    pace = _CheckpointTimer(config.checkpoint)
    losses, skipped, in_a_row = torch.full([len(plan.per_generator)], torch.nan), start.skipped, 0
    with tracker as log, progress_bar() as progress:
        bar = progress.add_task("training", total=plan.steps, completed=start.step)
        for step in range(start.step, plan.steps):
            began = time.perf_counter()
            lr = lr_at(step, plan, config.optimizer)
            taken = take_step(replace(job, plan=plan), engine, step, lr, schedule.due(step))
            plan = taken.plan
            if taken.skipped:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row > MAX_CONSECUTIVE_SKIPS:
                    raise UserError(_diverged(job, taken.skipped, step, lr))
            else:
                losses, in_a_row = taken.losses, 0
            seconds = time.perf_counter() - began
            schedule.took(seconds, taken.measuring, engine)
            progress.update(bar, advance=1, description=f"loss {losses.mean():.4f}")
            if log:
                log.step(step, taken.losses.tolist(), lr, seconds, taken.noise, taken.skipped)
            done = step + 1
            if done == plan.steps:
                break
            reason = stop.reason(ahead=seconds + pace.seconds)
            wish = _STOP if reason else _SAVE if pace.due(done) else _GO_ON
            wish = max_over_ranks(accelerator, wish)
            if wish != _GO_ON:
                with pace.saving():
                    save(run, engine, log, done, skipped, config.checkpoint.keep)
            if wish == _STOP:
                accelerator.wait_for_everyone()
                raise Interrupted(
                    f"{reason or 'another rank was stopped'}: stopped after step {done} of "
                    f"{plan.steps}, of which there is a checkpoint; add --resume to go on"
                )
        delta = engine.current_perturbations()
        if log:
            log.pictures(plan.steps, delta)
    return TrainingOutcome(losses, delta, plan, skipped)


class _CheckpointTimer:
    """When checkpoints are due: after so many steps, or so long after the last."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._every, self._longest = config.every, 60 * config.minutes
        self._last = time.monotonic()
        self.seconds = 0.0  # that the last one took

    def due(self, step: int) -> bool:
        """Whether there is to be one after `step` steps."""
        return step % self._every == 0 or time.monotonic() - self._last > self._longest

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time one."""
        began = time.monotonic()
        yield
        self._last = time.monotonic()
        self.seconds = self._last - began


def save(run: Run, engine: Engine, log: StepLog | None, step: int, skipped: int, keep: int) -> None:
    """Write a checkpoint, and pictures of the perturbations to TensorBoard; a collective call."""
    state, delta = engine.state(), engine.current_perturbations()
    if log:
        log.pictures(step, delta)
        save_checkpoint(run, Checkpoint(step, state, skipped), keep)


def take_step(
    job: TrainingJob, engine: Engine, step: int, lr: float, in_parameters: bool = False
) -> StepOutcome:
    """One optimizer step, in smaller micro-batches from here on if those of the plan do not fit.

    Its noise is measured in the space of the perturbation, and of the parameters `in_parameters`.

    Raises:
        UserError: a loss or gradient is not finite, and such steps are not to be skipped.
    """
    accelerator, plan = engine.accelerator, job.plan
    batch = job.sampler.draw(step).only(job.rows)
    while True:
        micros = job.loader(batch, plan.micro_slices(accelerator.process_index))
        try:
            if job.config.batch.accumulation == "engine":
                return StepOutcome(engine_step(engine, job.loss, micros, lr), {}, 0.0, plan)
            watch = NoiseMonitor(engine, plan.per_generator, in_parameters=in_parameters)
            losses = delta_step(engine, job.loss, micros, lr, watch)
            return StepOutcome(losses, watch.found, watch.seconds, plan)
        except MicroBatchTooLargeError:
            plan = plan.with_micro(halve_micro_batch(plan.largest_micro))
        except NonFiniteError as error:
            if job.config.optimizer.nonfinite == "stop":
                raise UserError(_diverged(job, error.rows, step, lr)) from None
            nothing = torch.full([len(plan.per_generator)], torch.nan)
            return StepOutcome(nothing, {}, 0.0, plan, error.rows)
        if accelerator.is_main_process and job.config.batch.micro == "auto":
            remember_micro_batch(job.config, accelerator.device, plan.micro)


def _diverged(job: TrainingJob, rows: Sequence[int], step: int, lr: float) -> str:
    """What to tell the user of a step whose loss or gradient is not finite."""
    batch = job.sampler.draw(step)
    clusters = [job.rows.start + row for row in rows]
    where = "; ".join(f"cluster {each}: {_images(batch, each)}" for each in clusters[:3])
    more = f" and {len(clusters) - 3} more clusters" if len(clusters) > 3 else ""
    return (
        f"training diverged in step {step + 1}: loss or gradient is not finite in {where}{more}; "
        f"lower optimizer.lr (now {lr:.3g}), or set optimizer.nonfinite=skip"
    )


def _images(batch: GlobalBatch, cluster: int) -> str:
    """The batch of one cluster in words."""
    index = batch.index[batch.generator == cluster]
    shown = ", ".join(map(str, index[:5]))
    return f"batch of {len(index)} images ({shown}{', ...' if len(index) > 5 else ''})"
