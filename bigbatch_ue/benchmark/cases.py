"""Benchmark cases: gradient paths at effective batches, on random images and random networks.

The cost of a step does not depend on the values of images and weights.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator

from bigbatch_ue.batching.micro_batch import gradient_fits
from bigbatch_ue.benchmark.baseline import JpegFiles, baseline_step, unfreeze
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.load import resolve
from bigbatch_ue.config.names import MeasuredPath
from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.surrogate import untrained_surrogate
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.gradient import delta_step, engine_step
from bigbatch_ue.training.loop import TrainingJob
from bigbatch_ue.training.objective import ClusterwiseLoss
from bigbatch_ue.training.setup import choose_micro_batch, make_job, plan_batches

CHANNELS = 3
_IMAGES_PER_CLUSTER = 32

MicroBatchSize = int | Literal["auto"]


@dataclass(frozen=True)
class BenchmarkCase:
    """A gradient path at an effective batch, in the micro-batches of the job's plan."""

    path: MeasuredPath
    job: TrainingJob

    @property
    def effective_batch(self) -> int:
        """Number of images of a generator in a step."""
        return self.job.plan.effective

    @property
    def micro_batch(self) -> int:
        """Largest number of images in a pass of the surrogate."""
        return self.job.plan.largest_micro

    @property
    def images(self) -> int:
        """Number of images through the surrogate in a step, over all ranks."""
        return self.job.plan.at(0).images

    def __str__(self) -> str:
        plan = self.job.plan
        return f"{self.path}, B = {plan.effective:,}, micro-batch {plan.largest_micro}"


class Workload:
    """The images, clusters and networks that all cases of a session share.

    Args:
        accelerator: from `start_accelerator`.
        config: the training to measure; each case replaces its batch section.
    """

    def __init__(self, accelerator: Accelerator, config: Config) -> None:
        self.accelerator, self.config = accelerator, config
        device, size, count = accelerator.device, config.data.size, config.clusters.generators
        shape = (_IMAGES_PER_CLUSTER * count, CHANNELS, size, size)
        images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
        torch.manual_seed(0)
        surrogate = untrained_surrogate(config.surrogate, CHANNELS, size).to(device)
        with torch.inference_mode():
            features = surrogate.eval()(torch.rand(2, CHANNELS, size, size, device=device))
        self.clusters = Clusters(
            assignment=torch.arange(len(images)) % count,
            centres=torch.rand(count, features.shape[1]),
            permutation=torch.arange(count).roll(1),
        )
        self.job = make_job(config, images, surrogate, self.clusters, accelerator)
        self.files = JpegFiles(images, device)
        self.baseline_loss = ClusterwiseLoss(
            unfreeze(surrogate),
            self.clusters.targets.to(device),
            config.objective,
            config.augment,
        )

    def case(self, effective: int, micro: MicroBatchSize, path: MeasuredPath) -> BenchmarkCase:
        """Make a case whose micro-batches fit into memory; a collective call."""
        batch = {
            "effective": effective,
            "micro": micro,
            "accumulation": "engine" if path is MeasuredPath.ENGINE else "delta",
            "extend": "views",
        }
        config = resolve(Config, self.config.model_dump(mode="json") | {"batch": batch}, ())
        plan, sampler = plan_batches(config, self.clusters, self.accelerator.num_processes)
        job = replace(self.job, config=config, plan=plan, sampler=sampler)
        return BenchmarkCase(path, choose_micro_batch(job, self.accelerator))

    def new_bank(self) -> GeneratorBank:
        """Make new generators, which no engine has wrapped."""
        config = self.config
        return GeneratorBank(
            config.clusters.generators, CHANNELS, config.data.size, config.generator, config.seed
        ).to(self.accelerator.device)


class Step(Protocol):
    """An optimizer step of a case, which can be repeated."""

    def warm_up(self) -> None:
        """Do the work that is slow only at the first time; a collective call."""

    def __call__(self) -> int:
        """Take the step, and return this rank's images; a collective call."""


class ProgramStep:
    """A step on one of the program's own paths, with new generators under the launcher's engine.

    Args:
        workload: of the session.
        case: on the delta or engine path.
        at_most: maximum number of micro-batches of a rank; None takes the whole step.
    """

    def __init__(self, workload: Workload, case: BenchmarkCase, at_most: int | None) -> None:
        self.job, self.on_delta = case.job, case.path is MeasuredPath.DELTA
        count, config = self.job.plan.micro_batches, self.job.config
        self.count = count if at_most is None else min(count, at_most)
        accumulation = 1 if self.on_delta else self.count
        bank, accelerator = workload.new_bank(), workload.accelerator
        self.engine = Engine(accelerator, bank, config.optimizer, accumulation)
        self.parts = self.job.plan.at(0).micro_slices(accelerator.process_index)

    def warm_up(self) -> None:
        """Pass a micro-batch forward and backward; on the delta path, take a short step too."""
        first = next(self.job.loader(self.job.sampler.draw(0), self.parts[:1]))
        delta = self.engine.current_perturbations()
        gradient_fits(lambda delta: self.job.loss(delta, first), delta)
        if self.on_delta:  # on the engine path, only the last backward pass of a full step updates
            self._take(1)

    def __call__(self) -> int:
        """Take the step."""
        return self._take(self.count)

    def _take(self, count: int) -> int:
        parts = self.parts[:count]
        micro_batches = self.job.loader(self.job.sampler.draw(0), parts)
        step = delta_step if self.on_delta else engine_step
        lr, exchange = self.job.config.optimizer.lr, StepExchange(self.engine)
        step(self.engine, self.job.loss, micro_batches, lr, exchange)
        return sum(part.stop - part.start for part in parts)


class BaselineStep:
    """A step of the baseline, with new generators.

    Args:
        workload: of the session.
        case: on the baseline path.
        at_most: maximum number of micro-batches of a rank; None takes the whole step.
    """

    def __init__(self, workload: Workload, case: BenchmarkCase, at_most: int | None) -> None:
        self.workload, self.at_most = workload, at_most
        self.batch, self.micro = case.job.sampler.draw(0), case.job.plan.largest_micro
        self.bank = workload.new_bank()
        self.optimizers = [
            torch.optim.Adam(generator.parameters(), lr=1e-4) for generator in self.bank.generators
        ]

    def warm_up(self) -> None:
        """Pass a micro-batch forward and backward."""
        self._take(1)

    def __call__(self) -> int:
        """Take the step."""
        return self._take(self.at_most)

    def _take(self, at_most: int | None) -> int:
        return baseline_step(
            self.workload.accelerator,
            self.bank,
            self.optimizers,
            self.workload.baseline_loss,
            self.workload.files,
            self.batch,
            self.micro,
            at_most,
        )


def new_step(workload: Workload, case: BenchmarkCase, at_most: int | None) -> Step:
    """Make a step of `case`, of at most `at_most` micro-batches of a rank; a collective call."""
    if case.path is MeasuredPath.BASELINE:
        return BaselineStep(workload, case, at_most)
    return ProgramStep(workload, case, at_most)
