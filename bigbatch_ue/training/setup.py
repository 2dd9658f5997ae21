"""The preparation of training: surrogate, clusters, batch plan, micro-batch size, engine."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import nn

from bigbatch_ue.batching.loader import MicroBatchLoader
from bigbatch_ue.batching.micro_batch import (
    gradient_fits,
    halve_micro_batch,
    initial_micro_batch,
    remember_micro_batch,
)
from bigbatch_ue.batching.plan import BatchPlan, make_plan
from bigbatch_ue.batching.sampler import Sampler
from bigbatch_ue.clustering.agreement import measure_agreement
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.clustering.grouping import make_clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.files.locks import locked
from bigbatch_ue.networks.frozen import FrozenNetwork, compute_mode
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.surrogate import extract_features, surrogate_of_run
from bigbatch_ue.runs.checkpoints import NEW, Checkpoint
from bigbatch_ue.runs.folder import Run, create_run
from bigbatch_ue.runs.result import ChosenBatch, read_chosen_batch
from bigbatch_ue.runtime.accelerator import min_over_ranks
from bigbatch_ue.runtime.host import MIB
from bigbatch_ue.runtime.ranks import EngineName
from bigbatch_ue.training.batch_choice import BatchChoice
from bigbatch_ue.training.cluster_groups import SINGLE_GROUP, RankGroup
from bigbatch_ue.training.engine import Engine, bank_parameters
from bigbatch_ue.training.loop import TrainingJob
from bigbatch_ue.training.memory_needs import expected_memory
from bigbatch_ue.training.objective import ClusterwiseLoss


def prepare_job(
    config: Config,
    run: Run,
    data: DataSet,
    accelerator: Accelerator,
    group: RankGroup = SINGLE_GROUP,
) -> TrainingJob:
    """Prepare surrogate, clusters, batch plan and micro-batch size of a run.

    One process groups the images, and creates the run's folder when nothing can fail any more. It
    alone knows the agreement of clusters and classes.
    """
    surrogate = surrogate_of_run(config, data, accelerator.device)
    if accelerator.is_main_process:
        _cluster_once(config, run, data, surrogate, accelerator.device)
    accelerator.wait_for_everyone()
    clusters = Clusters.load(run.clusters)
    chosen = _known_choice(run, accelerator)
    job = make_job(config, data.train.images, surrogate, clusters, accelerator, group, chosen)
    job = choose_micro_batch(job, accelerator)
    if config.batch.effective == "auto":
        job = replace(job, choice=BatchChoice(run, group.parts_of(run, config.clusters.generators)))
    if not accelerator.is_main_process:
        return job
    agreement = measure_agreement(clusters.assignment.numpy(), data.train.labels)
    return replace(job, agreement=agreement)


def _known_choice(run: Run, accelerator: Accelerator) -> ChosenBatch | None:
    """Return what `batch.effective=auto` has chosen, if every rank can see it already."""
    chosen = read_chosen_batch(run.chosen_batch)
    return chosen if min_over_ranks(accelerator, int(chosen is not None)) else None


def _cluster_once(
    config: Config, run: Run, data: DataSet, surrogate: nn.Module, device: torch.device
) -> None:
    """Group the images and create the run's folder, unless another process has done so."""
    with locked(config.data.root / "surrogates" / f"clusters-{run.answer}.lock"):
        if run.clusters.exists():
            return
        clusters = cluster_images(config, data, surrogate, device)
        create_run(run, config, data.identity)
        clusters.save(run.clusters, {"answer": run.answer})


def cluster_images(
    config: Config, data: DataSet, surrogate: nn.Module, device: torch.device
) -> Clusters:
    """Group the train images of `data` as the resolved `config` says."""
    features = extract_features(surrogate, data.train.images, device)
    return make_clusters(features, data.train.labels, config.clusters, config.seed)


def make_job(
    config: Config,
    images: Pixels,
    surrogate: nn.Module,
    clusters: Clusters,
    accelerator: Accelerator,
    group: RankGroup = SINGLE_GROUP,
    chosen: ChosenBatch | None = None,
) -> TrainingJob:
    """Make the job of one rank group on `images`, uint8 [N, C, H, W], in `clusters`.

    `chosen` is what `batch.effective=auto` has chosen before.
    """
    device = accelerator.device
    plan, sampler = plan_batches(config, clusters, accelerator.num_processes, chosen)
    generators = group.generators(config.clusters.generators)
    return TrainingJob(
        config=config,
        generators=generators,
        plan=plan.only(generators),
        sampler=sampler,
        loader=MicroBatchLoader(images, device, config.compute.images),
        loss=ClusterwiseLoss(
            surrogate=FrozenNetwork(surrogate, compute_mode(config.compute, device)),
            targets=clusters.targets[generators].to(device),
            objective=config.objective,
            augment=config.augment,
        ),
    )


def plan_batches(
    config: Config, clusters: Clusters, ranks: int, chosen: ChosenBatch | None = None
) -> tuple[BatchPlan, Sampler]:
    """Plan the batches of all generators on `ranks` ranks, and make the sampler that draws them."""
    plan = make_plan(config, clusters.sizes.tolist(), ranks, chosen)
    assignment = clusters.assignment.numpy()
    sampler = Sampler.of_clusters(
        assignment,
        plan.schedule,
        config.clusters.generators,
        config.batch,
        config.seed,
        config.augment,
    )
    return plan, sampler


def choose_micro_batch(job: TrainingJob, accelerator: Accelerator) -> TrainingJob:
    """Set the largest micro-batch that fits every rank, if the configuration leaves it open."""
    config, plan, device = job.config, job.plan, accelerator.device
    if config.batch.micro != "auto":
        return job
    _, *shape = job.loader.images.shape
    needs = expected_memory(config, shape[0], micro=1, ranks=1, engine=EngineName.SINGLE)
    bytes_per_image = round(needs.surrogate_activations * MIB)
    plan = plan.with_micro(
        min_over_ranks(accelerator, initial_micro_batch(config, bytes_per_image, device))
    )
    delta = torch.zeros(len(plan.per_generator), *shape, device=device)

    def fits(plan: BatchPlan) -> bool:
        step = plan.fullest_step
        batch = job.sampler.draw(step).only(job.generators)
        micro = next(job.loader(batch, [slice(plan.at(step).largest_micro)]))
        return gradient_fits(lambda delta: job.loss(delta, micro), delta)

    while not min_over_ranks(accelerator, fits(plan)):
        plan = plan.with_micro(halve_micro_batch(plan.largest_micro))
    if accelerator.is_main_process and plan.micro_batches > 1:
        remember_micro_batch(config, device, plan.micro)
    return replace(job, plan=plan)


def start_engine(job: TrainingJob, accelerator: Accelerator, start: Checkpoint = NEW) -> Engine:
    """Start the launcher's engine on the generator bank, in the state of `start`."""
    config = job.config
    _, channels, size, _ = job.loader.images.shape
    count = len(job.plan.per_generator)
    bank = GeneratorBank(
        count, channels, size, config.generator, config.seed, first=job.generators.start
    )
    if start.state:
        bank.load_state_dict(bank_parameters(start.state))
    accumulation = 1 if config.batch.accumulation == "delta" else job.plan.micro_batches
    engine = Engine(accelerator, bank, config.optimizer, accumulation)
    if start.state:
        engine.restore_optimizer(start.state, start.step - start.skipped)
    return engine
