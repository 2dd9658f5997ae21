"""The training loop: optimizer steps from a checkpoint to the last step or a stop request."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import torch
from accelerate import Accelerator
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
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.checkpoints import Checkpoint, save_checkpoint
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.runs.result import Agreement, ChosenBatch, read_chosen_batch
from bigbatch_ue.runtime.accelerator import min_over_ranks
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress
from bigbatch_ue.runtime.signals import Interrupted, StopRequest
from bigbatch_ue.training.batch_choice import BatchChoice
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import Action, StepExchange
from bigbatch_ue.training.gradient import Loss, NonFiniteError, delta_step, engine_step
from bigbatch_ue.training.noise import PIECES
from bigbatch_ue.training.noise_monitor import NoiseMonitor, NoiseSchedule
from bigbatch_ue.training.step_log import StepLog

MAX_CONSECUTIVE_SKIPS = 10
"""Steps in a row that may be skipped before training is given up."""
_NAMED_CLUSTERS, _NAMED_IMAGES = 3, 5


@dataclass(frozen=True)
class TrainingJob:
    """The work of one run, before an engine has it.

    Attributes:
        config: the resolved configuration.
        generators: which generators of the bank are trained.
        plan: batches and steps of these generators.
        sampler: draws the global batches of all generators.
        loader: loads micro-batches.
        loss: weighted losses of a micro-batch.
        agreement: of the clusters and the classes, if there are several; on the main process only.
        choice: with `batch.effective=auto`, where B is chosen.
    """

    config: Config
    generators: slice
    plan: BatchPlan
    sampler: Sampler
    loader: MicroBatchLoader
    loss: Loss
    agreement: Agreement | None = None
    choice: BatchChoice | None = None

    def must_choose(self, step: int) -> bool:
        """Return whether B must be chosen before `step`."""
        return self.plan.choice_step is not None and step >= self.plan.choice_step

    def with_choice(self, chosen: ChosenBatch) -> "TrainingJob":
        """Make the job whose B has been chosen."""
        plan = self.plan.with_choice(chosen)
        return replace(self, plan=plan, sampler=self.sampler.following(plan.schedule))


class StepOutcome(NamedTuple):
    """The outcome of one optimizer step.

    Attributes:
        losses: loss of each generator [p]; NaN if the step was skipped.
        noise: on the delta path, estimates of the gradient noise, by `delta` and, if requested,
            `parameters`.
        noise_seconds: time of the measurement in `parameters`.
        plan: the plan, with micro-batches that fitted into memory.
        skipped: generators that caused the step to be skipped.
    """

    losses: Tensor
    noise: dict[str, Moments]
    noise_seconds: float
    plan: BatchPlan
    skipped: Sequence[int] = ()


class TrainingOutcome(NamedTuple):
    """The outcome of all steps.

    Attributes:
        losses: loss of each generator [p] in the last step that was not skipped.
        delta: the perturbations, float32 [p, C, H, W].
        plan: the plan, with micro-batches that fitted into memory.
        skipped: number of steps that were skipped.
    """

    losses: Tensor
    delta: Tensor
    plan: BatchPlan
    skipped: int


def optimise(
    job: TrainingJob, run: Run, engine: Engine, start: Checkpoint, stop: StopRequest
) -> TrainingOutcome:
    """Take the optimizer steps from `start` to the last one, with checkpoints.

    Raises:
        Interrupted: on every rank, if `stop` asks for it on any; a checkpoint has been written.
        UserError: a loss is not finite, and its step must not be skipped, or too many were.
    """
    config, accelerator = job.config, engine.accelerator
    open_log = StepLog.open(run, config, start.step)
    schedule = NoiseSchedule(config.noise.every, start.step)
    timer, skipped, in_a_row = _CheckpointTimer(config.checkpoint), start.skipped, 0
    seconds = 0.0
    losses = torch.full([len(job.plan.per_generator)], torch.nan)
    with (
        open_log if accelerator.is_main_process else nullcontext() as log,
        progress("training", "steps", job.plan.steps, done=start.step, kept=True) as stage,
    ):
        if log and job.agreement and start.step == 0:
            log.agreement(job.agreement)
        for step in count(start.step):
            if job.must_choose(step):
                chosen = choose_batch(job, accelerator, stop)
                if chosen is None:
                    save(run, engine, log, step, skipped, config.checkpoint.keep)
                    raise _interrupted(accelerator, stop.reason(), step, job.plan)
                job = job.with_choice(chosen)
                stage.total = job.plan.steps
            began = time.perf_counter()
            lr = lr_at(step, job.plan)
            done = step + 1
            wish = _Wish(stop, timer, done, began, seconds)
            exchange = StepExchange(engine, wish)
            outcome = take_step(job, engine, step, lr, exchange, schedule.due(step))
            job = replace(job, plan=outcome.plan)
            if outcome.skipped:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row > MAX_CONSECUTIVE_SKIPS:
                    raise UserError(_diverged(job, outcome.skipped, step, lr))
            else:
                losses, in_a_row = outcome.losses, 0
            seconds = time.perf_counter() - began
            schedule.record(seconds, outcome.noise_seconds, engine)
            stage.remark = f"loss {losses.mean():.4f}"
            stage.advance()
            if log:
                own = outcome.losses.tolist()
                log.step(step, own, lr, seconds, outcome.noise, outcome.skipped, job.plan)
            if done == job.plan.steps:
                break
            if exchange.action is not Action.CONTINUE:
                with timer.saving():
                    save(run, engine, log, done, skipped, config.checkpoint.keep)
            if exchange.action is Action.STOP:
                raise _interrupted(accelerator, wish.reason, done, job.plan)
        delta = engine.current_perturbations()
        if log:
            log.pictures(job.plan.steps, delta)
    return TrainingOutcome(losses, delta, job.plan, skipped)


def choose_batch(
    job: TrainingJob, accelerator: Accelerator, stop: StopRequest
) -> ChosenBatch | None:
    """Choose the effective batch of `batch.effective=auto`, the same on every rank, and say it.

    Returns:
        None on every rank if the process that chooses is to stop before it can.
    """
    assert job.choice is not None, "batch.effective=auto comes with a choice"
    is_made = 1
    if accelerator.is_main_process:
        is_made = int(job.choice.make(job.plan, stop) is not None)
    if not min_over_ranks(accelerator, is_made):
        return None
    chosen = read_chosen_batch(job.choice.run.chosen_batch)
    if chosen is None:
        raise UserError(
            f"{job.choice.run.chosen_batch}: missing on a rank; "
            "put the run into a folder that all ranks share"
        )
    note(str(chosen))
    return chosen


def _interrupted(
    accelerator: Accelerator, reason: str | None, done: int, plan: BatchPlan
) -> Interrupted:
    """Make the error of a run that was stopped, once every rank has the checkpoint behind it."""
    accelerator.wait_for_everyone()
    return Interrupted(
        f"{reason or 'another rank was stopped'}: stopped after step {done} of "
        f"{plan.steps} with a checkpoint; run the same command again to continue, a "
        "training with --resume"
    )


class _CheckpointTimer:
    """The timing of checkpoints: every few steps, or some minutes after the last one.

    Attributes:
        seconds: time that the last checkpoint took.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self._steps, self._max_seconds = config.every, 60 * config.minutes
        self._last = time.monotonic()
        self.seconds = 0.0

    def due(self, step: int) -> bool:
        """Return whether to save after `step` steps."""
        return step % self._steps == 0 or time.monotonic() - self._last > self._max_seconds

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure the time of one checkpoint."""
        began = time.monotonic()
        yield
        self._last = time.monotonic()
        self.seconds = self._last - began


@dataclass
class _Wish:
    """What this rank wants to do after a step, to be asked in its midst.

    Attributes:
        stop: asks training to stop.
        timer: of the checkpoints.
        done: number of steps with this one.
        began: time at which it began.
        before: seconds of the step before, as long as this one and the next may take; 0 if none.
        reason: once asked, why to stop, if so.
    """

    stop: StopRequest
    timer: _CheckpointTimer
    done: int
    began: float
    before: float
    reason: str | None = None

    def __call__(self) -> Action:
        """Return the wish; stopping later takes the rest of this step and the whole next one."""
        elapsed = time.perf_counter() - self.began
        step = max(self.before, elapsed)
        self.reason = self.stop.reason(ahead=2 * step - elapsed + self.timer.seconds)
        if self.reason is not None:
            return Action.STOP
        return Action.SAVE if self.timer.due(self.done) else Action.CONTINUE


def save(run: Run, engine: Engine, log: StepLog | None, step: int, skipped: int, keep: int) -> None:
    """Write a checkpoint, and pictures of the perturbations to TensorBoard; a collective call."""
    state, delta = engine.state(), engine.current_perturbations()
    if log:
        log.pictures(step, delta)
        save_checkpoint(run, Checkpoint(step, state, skipped), keep)


def take_step(
    job: TrainingJob,
    engine: Engine,
    step: int,
    lr: float,
    exchange: StepExchange,
    in_parameters: bool = False,
) -> StepOutcome:
    """Take one optimizer step, in smaller micro-batches if those of the plan do not fit.

    The gradient noise is measured in the space of the perturbation and, if `in_parameters`, of the
    parameters.

    Raises:
        UserError: a loss or gradient is not finite, and such steps must not be skipped.
    """
    accelerator, plan = engine.accelerator, job.plan
    batch = job.sampler.draw(step).only(job.generators)
    while True:
        now, pieces = plan.at(step), list[int]()
        parts = now.micro_slices(accelerator.process_index)
        if plan.choice_step is not None:
            piece_slices = now.piece_slices(accelerator.process_index, PIECES)
            pieces, parts = [piece for piece, _ in piece_slices], [part for _, part in piece_slices]
        micros = job.loader(batch, parts)
        try:
            if job.config.batch.accumulation == "engine":
                engine.begin_step(now.micro_batches)
                losses = engine_step(engine, job.loss, micros, lr, exchange)
                return StepOutcome(losses, {}, 0.0, plan)
            monitor = NoiseMonitor(
                engine, now.per_generator, in_parameters=in_parameters, pieces=pieces
            )
            losses = delta_step(engine, job.loss, micros, lr, exchange, monitor)
            return StepOutcome(losses, monitor.moments, monitor.seconds, plan)
        except MicroBatchTooLargeError:
            plan = plan.with_micro(halve_micro_batch(now.largest_micro))
        except NonFiniteError as error:
            if job.config.optimizer.nonfinite == "stop":
                raise UserError(_diverged(job, error.generators, step, lr)) from None
            no_losses = torch.full([len(now.per_generator)], torch.nan)
            return StepOutcome(no_losses, {}, 0.0, plan, error.generators)
        if accelerator.is_main_process and job.config.batch.micro == "auto":
            remember_micro_batch(job.config, accelerator.device, plan.micro)


def _diverged(job: TrainingJob, generators: Sequence[int], step: int, lr: float) -> str:
    """Describe a step whose loss or gradient is not finite, with its clusters and images."""
    batch = job.sampler.draw(step)
    clusters = [job.generators.start + index for index in generators]
    named = [f"cluster {each} ({_images(batch, each)})" for each in clusters[:_NAMED_CLUSTERS]]
    if len(clusters) > len(named):
        named.append(f"{len(clusters) - len(named)} more")
    return (
        f"training diverged in step {step + 1}: loss or gradient is not finite in "
        f"{', '.join(named)}; lower optimizer.lr (now {lr:.3g}), or set optimizer.nonfinite=skip"
    )


def _images(batch: GlobalBatch, cluster: int) -> str:
    """Name the first images of one cluster in `batch`."""
    index = batch.index[batch.generator == cluster]
    named = [*map(str, index[:_NAMED_IMAGES]), *(["..."] if len(index) > _NAMED_IMAGES else [])]
    return f"batch of {counted(len(index), 'image')}: {', '.join(named)}"
