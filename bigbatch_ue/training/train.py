"""Training of the generator bank: perturbations for a data set at one effective batch size."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict

import torch
from accelerate import Accelerator

from bigbatch_ue import __version__
from bigbatch_ue.batching.plan import BatchPlan
from bigbatch_ue.clustering.resolve import resolve_clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.files.tensor_files import write_tensors
from bigbatch_ue.networks.frozen import allow_tf32, compute_mode
from bigbatch_ue.reporting.words import counted, counted_span
from bigbatch_ue.runs.checkpoints import Checkpoint, delete_checkpoints, load_checkpoint
from bigbatch_ue.runs.folder import Run, open_run
from bigbatch_ue.runs.result import TrainingResult, read_chosen_batch
from bigbatch_ue.runtime.accelerator import max_over_ranks, min_over_ranks, start_accelerator
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.memory import keep_freed_memory, peak_memory, reset_peak_memory
from bigbatch_ue.runtime.signals import StopRequest
from bigbatch_ue.training.cluster_groups import (
    SINGLE_GROUP,
    RankGroup,
    join_rank_group,
    merge_groups,
)
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.loop import TrainingJob, TrainingOutcome, optimise
from bigbatch_ue.training.noise_monitor import noise_scale
from bigbatch_ue.training.setup import prepare_job, start_engine


def train(
    config: Config,
    *,
    resume: bool = False,
    download: bool = False,
    time_limit: float | None = None,
) -> Run:
    """Train the perturbations of `config`; under a launcher, as one of its ranks.

    Args:
        config: the resolved configuration.
        resume: continue an unfinished run from its last checkpoint.
        download: allow the data set to be downloaded.
        time_limit: stop with a checkpoint this many minutes after the start of the process.

    Returns:
        The finished run. A run that had finished before is not trained again.

    Raises:
        UserError: the input is invalid, the run cannot be continued, or the engine is not the one
            that the launcher requests.
        Interrupted: SIGTERM, SIGUSR1 or the time limit; a checkpoint has been written.
    """
    group = join_rank_group(config.compute.cluster_groups)
    accelerator, stop = start_accelerator(), StopRequest(time_limit)
    try:
        data = prepare_dataset(config.data, download=download)
        return train_on(accelerator, config, data, group, resume=resume, stop=stop)
    finally:
        accelerator.end_training()


def train_on(
    accelerator: Accelerator,
    config: Config,
    data: DataSet,
    group: RankGroup = SINGLE_GROUP,
    *,
    resume: bool = False,
    stop: StopRequest | None = None,
) -> Run:
    """Train the clusters of one rank group on an engine that has been started; see `train`."""
    config = resolve_clusters(config, data.train.labels)
    run = open_run(config, data.identities, resume=resume)
    data = data.as_trained_on(config, run)
    accelerator.wait_for_everyone()
    group.barrier()
    if run.finished:
        note(f"{run.folder}: has already finished, nothing to do")
        return run
    job = prepare_job(config, run, data, accelerator, group)
    if job.agreement:
        note(str(job.agreement))
    note(describe_plan(job.plan, config))
    if job.plan.choice_in_words:
        note(job.plan.choice_in_words)
    if job.plan.warning:
        note(f"warning: {job.plan.warning}", warning=True)
    part = group.part_of(run)
    if not part.finished:
        train_job(job, part, accelerator, data.name, stop or StopRequest())
    if accelerator.is_main_process:
        merge_groups(run, group)
    accelerator.wait_for_everyone()
    return run


def train_job(
    job: TrainingJob, run: Run, accelerator: Accelerator, dataset: str, stop: StopRequest
) -> None:
    """Train `job` from the last checkpoint of `run`, then write the result."""
    config = job.config
    allow_tf32(compute_mode(config.compute, accelerator.device))
    keep_freed_memory()
    main = accelerator.is_main_process
    with run.exclusive() if main else nullcontext(), stop.listening():
        start = load_checkpoint(run)
        if min_over_ranks(accelerator, start.step) != max_over_ranks(accelerator, start.step):
            raise UserError(
                f"{run.checkpoints}: differs between ranks; "
                "put the run into a folder that all ranks share"
            )
        engine = start_engine(job, accelerator, start)
        reset_peak_memory(accelerator.device)
        began = time.perf_counter()
        trained = optimise(job, run, engine, start, stop)
        if main:
            seconds = time.perf_counter() - began
            write_result(run, dataset, job, engine, trained, start, seconds)
        accelerator.wait_for_everyone()


def write_result(
    run: Run,
    dataset: str,
    job: TrainingJob,
    engine: Engine,
    trained: TrainingOutcome,
    start: Checkpoint,
    seconds: float,
) -> None:
    """Write the perturbations and the result, which finishes the run."""
    config, plan, device = job.config, trained.plan, engine.accelerator.device
    metadata = {"answer": run.answer, "eps": config.generator.eps, "steps": plan.steps}
    result = TrainingResult(
        dataset=dataset,
        seed=config.seed,
        scope=config.batch.scope,
        requested_batch=plan.requested,
        effective_batch=plan.effective,
        effective_batch_per_generator=plan.per_generator,
        optimizer_steps=plan.steps,
        images_seen=plan.images,
        learning_rate=plan.lr,
        final_loss=tuple(x if math.isfinite(x) else None for x in trained.losses.tolist()),
        skipped_steps=trained.skipped,
        noise_scale=noise_scale([(run, len(trained.delta))]),
        engine=engine.name,
        world_size=plan.world_size,
        cluster_groups=1,
        micro_batch=plan.largest_micro,
        micro_batches=plan.micro_batches,
        accumulation=config.batch.accumulation,
        compute=asdict(compute_mode(config.compute, device)),
        device=device.type,
        resumed_at=start.step,
        seconds=round(seconds, 3),
        peak_memory_mib=round(peak_memory(device), 1),
        images_per_second=round((plan.images - plan.images_before(start.step)) / seconds, 1),
        versions={"bigbatch_ue": __version__, "torch": torch.__version__},
        agreement=job.agreement,
        chosen_batch=read_chosen_batch(job.choice.run.chosen_batch) if job.choice else None,
    )
    write_tensors(run.perturbations, {"perturbations": trained.delta}, metadata)
    result.write(run.result)
    delete_checkpoints(run)


def describe_plan(plan: BatchPlan, config: Config) -> str:
    """Describe `plan` in a few lines of text; the ranks have the parts of its fullest step."""
    steps = [step for _, step in plan.segments()]
    fullest = max(steps, key=lambda step: step.images)
    part = fullest.rank_slice(plan.world_size - 1)
    return (
        f"effective batch {plan.batch_in_words} x {counted(len(plan.per_generator), 'generator')} "
        f"= {counted_span([step.images for step in steps], 'image')} per step\n"
        f"  {counted(plan.world_size, 'rank')} x {counted(part.stop - part.start, 'image')} "
        f"= {counted(fullest.micro_batches, 'micro-batch')} of up to {fullest.largest_micro:,}; "
        f"accumulation: {config.batch.accumulation}\n"
        f"  {counted_span([step.steps_per_epoch for step in steps], 'step')} per epoch, "
        f"{counted(plan.steps, 'step')} in total "
        f"(budget: {config.budget.kind}); learning rate {fullest.lr_reason}"
    )
