"""One rank that trains tiny banks through the real engine.

A case is `<B>x<micro>-<accumulation>-<optimizer>-<steps>`; its B may be `40+97`, the batches of the
first step and of those after it. With the accumulation `scarce`, which is
`delta`, the last rank has memory for `FEW` images at a time.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.plan import BatchPlan, lr_at
from bigbatch_ue.batching.sampler import GlobalBatch
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.runs.checkpoints import NEW, Checkpoint
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.gradient import Loss
from bigbatch_ue.training.loop import take_step
from bigbatch_ue.training.setup import make_job, start_engine

CLUSTERS, IMAGES, SIZE, DIMENSION = 2, 120, 16, 24
FEW = 10


def config_of(case: str) -> tuple[Config, int]:
    """The configuration of a case, and its number of steps."""
    batch, accumulation, optimizer, steps = case.split("-")
    batches, micro = batch.split("x")
    points = list(enumerate(map(int, batches.split("+"))))
    # With plain SGD at a large rate, the change of the parameters is the gradient to 1e-7.
    rates = {"sgd": 1e2, "adam": 1e-3, "adamw": 1e-3}
    settings = {
        "seed": 5,
        "data": {"size": SIZE},
        "clusters": {"count": CLUSTERS},
        "generator": {"width": 4},
        "augment": {"pad": 2, "flip": True},
        "batch": {
            "schedule": points if len(points) > 1 else None,
            "effective": points[-1][1],
            "micro": micro,
            "extend": "views",
            "accumulation": "delta" if accumulation == "scarce" else accumulation,
        },
        "budget": {"kind": "steps", "steps": 5},
        "optimizer": {"name": optimizer, "lr": rates[optimizer], "weight_decay": 0, "min_lr": 0},
        "compute": {"precision": "float32", "compile": "off"},
    }
    return Config.model_validate(settings), int(steps)


def tiny_surrogate() -> nn.Module:
    """A random network with features [m, DIMENSION]."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8 * 16, DIMENSION),
        )


class Trainer:
    """What one rank needs to train the bank of a case, from any state of any engine."""

    def __init__(self, accelerator: Accelerator, case: str) -> None:
        self.accelerator = accelerator
        config, self.steps = config_of(case)
        random = np.random.default_rng(0)
        images = random.integers(256, size=(IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
        clusters = Clusters(
            assignment=torch.arange(IMAGES) * 7 % 11 % CLUSTERS,
            centres=torch.tensor(random.normal(size=(CLUSTERS, DIMENSION)), dtype=torch.float32),
            permutation=torch.arange(CLUSTERS),
        )
        surrogate = tiny_surrogate().to(accelerator.device)
        self.job = make_job(config, images, surrogate, clusters, accelerator)
        self.noise: dict[str, Moments] = {}
        if "scarce" in case and accelerator.is_last_process:
            self.job = replace(self.job, loss=scarce(self.job.loss))

    @property
    def plan(self) -> BatchPlan:
        return self.job.plan

    def engine(self, start: Checkpoint = NEW) -> Engine:
        return start_engine(self.job, self.accelerator, start)

    def batch(self, step: int = 0) -> GlobalBatch:
        return self.job.sampler.draw(step)

    def micros(self, batch: GlobalBatch) -> Iterator[MicroBatch]:
        """The micro-batches of this rank."""
        return self.job.loader(batch, self.plan.at(0).micro_slices(self.accelerator.process_index))

    def train(self, engine: Engine, start: int, stop: int) -> Tensor:
        """Take the steps from `start` to `stop`; the losses of the last one."""
        for step in range(start, stop):
            lr = lr_at(step, self.plan)
            outcome = take_step(
                self.job, engine, step, lr, StepExchange(engine), in_parameters=True
            )
            self.noise, self.job = outcome.noise, replace(self.job, plan=outcome.plan)
        return outcome.losses


def scarce(loss: Loss) -> Loss:
    """`loss` on a machine with memory for `FEW` images at a time."""

    def scarce_loss(delta: Tensor, micro: MicroBatch) -> Tensor:
        if len(micro) > FEW:
            torch.empty(2**60)
        return loss(delta, micro)

    return scarce_loss
