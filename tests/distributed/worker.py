"""One rank of the distributed tests: trains tiny banks through the real engine.

Usage: accelerate launch --config_file launchers/accelerate/<name>.yaml THIS OUT CASE...
A case is `<B>x<micro>-<accumulation>-<optimizer>-<steps>`; with the accumulation `scarce`, which is
`delta`, the last rank has memory for `FEW` images at a time.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from bigbatch_ue.batching.loader import MicroBatch, MicroBatchLoader
from bigbatch_ue.batching.plan import lr_at, make_plan
from bigbatch_ue.batching.sampler import GlobalBatch, Sampler
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.training.engine import Engine, bank_parameters
from bigbatch_ue.training.loop import TrainingJob, take_step
from bigbatch_ue.training.objective import ClusterwiseLoss

State = dict[str, torch.Tensor]
CLUSTERS, IMAGES, SIZE, DIMENSION = 3, 120, 16, 24
FEW = 10


def config_of(case: str) -> tuple[Config, int]:
    """The configuration of a case, and its number of steps."""
    batch, accumulation, optimizer, steps = case.split("-")
    effective, micro = batch.split("x")
    # With plain SGD at a large rate, the change of the parameters is the gradient to 1e-7.
    rates = {"sgd": 1e2, "adam": 1e-3, "adamw": 1e-3}
    return Config.model_validate(
        {
            "seed": 5,
            "data": {"size": SIZE},
            "clusters": {"count": CLUSTERS},
            "generator": {"width": 4},
            "augment": {"pad": 2, "flip": True},
            "batch": {
                "effective": effective,
                "micro": micro,
                "extend": "views",
                "accumulation": "delta" if accumulation == "scarce" else accumulation,
            },
            "budget": {"kind": "steps", "steps": 5},
            "optimizer": {
                "name": optimizer,
                "lr": rates[optimizer],
                "weight_decay": 0,
                "min_lr": 0,
            },
        }
    ), int(steps)


def tiny_surrogate() -> torch.nn.Module:
    """A frozen random network with features [m, DIMENSION]."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.GELU(),
            torch.nn.AvgPool2d(4),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 16, DIMENSION),
        )
    return network.eval().requires_grad_(False)


class Trainer:
    """What one rank needs to train the bank of a case, from any state of any engine."""

    def __init__(self, accelerator: Accelerator, case: str) -> None:
        self.accelerator = accelerator
        self.config, self.steps = config_of(case)
        random = np.random.default_rng(0)
        images = random.integers(256, size=(IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
        assignment = np.arange(IMAGES) * 7 % 11 % CLUSTERS
        targets = torch.tensor(random.normal(size=(CLUSTERS, DIMENSION)), dtype=torch.float32)
        self.plan = make_plan(
            self.config, np.bincount(assignment).tolist(), accelerator.num_processes
        )
        self.sampler = Sampler.of_clusters(
            assignment,
            self.plan.per_generator,
            self.config.batch,
            self.config.seed,
            self.config.augment,
        )
        self.loss = ClusterwiseLoss(
            surrogate=tiny_surrogate().to(accelerator.device),
            targets=targets.to(accelerator.device),
            objective=self.config.objective,
            augment=self.config.augment,
        )
        self.loader = MicroBatchLoader(images, accelerator.device)
        self.noise: dict[str, Moments] = {}
        self.scarce = "scarce" in case and accelerator.is_last_process
        self.delta_path = self.config.batch.accumulation == "delta"

    def engine(self, state: State | None = None, start: int = 0) -> Engine:
        bank = GeneratorBank(CLUSTERS, 3, SIZE, self.config.generator, self.config.seed)
        if state:
            bank.load_state_dict(bank_parameters(state))
        accumulation = 1 if self.delta_path else self.plan.micro_batches
        engine = Engine(self.accelerator, bank, self.config.optimizer, accumulation)
        if state:
            engine.restore_optimizer(state, start)
        return engine

    def micros(self, batch: GlobalBatch) -> Iterator[MicroBatch]:
        """The micro-batches of this rank."""
        return self.loader(batch, self.plan.micro_slices(self.accelerator.process_index))

    def scarce_loss(self, delta: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
        if len(micro) > FEW:
            torch.empty(2**60)
        return self.loss(delta, micro)

    def train(self, engine: Engine, start: int, stop: int) -> torch.Tensor:
        job = TrainingJob(
            config=self.config,
            rows=slice(0, CLUSTERS),
            plan=self.plan,
            sampler=self.sampler,
            loader=self.loader,
            loss=self.scarce_loss if self.scarce else self.loss,
        )
        for step in range(start, stop):
            lr = lr_at(step, self.plan, self.config.optimizer)
            taken = take_step(job, engine, step, lr, in_parameters=True)
            self.noise, self.plan = taken.noise, taken.plan
        return taken.losses


def run_case(accelerator: Accelerator, case: str, out: Path) -> None:
    """Train once; from the middle, train again from a state on disk, perhaps another engine's."""
    trainer = Trainer(accelerator, case)
    engine = trainer.engine()
    before = engine.state()
    middle = trainer.steps // 2
    if middle:
        trainer.train(engine, 0, middle)
    state = engine.state()
    losses = trainer.train(engine, middle, trainer.steps)
    after, delta = engine.state(), engine.current_perturbations()
    with torch.no_grad():
        whole = engine.gather_bank()()
    moved = {
        f"moved/{k}": v - bank_parameters(before)[k] for k, v in bank_parameters(after).items()
    }
    tensors = {"delta": delta, "losses": losses, **moved}
    facts = {
        "kind": engine.name,
        "bank": type(engine.bank).__name__,
        "world_size": accelerator.num_processes,
        "micro_batches": trainer.plan.micro_batches,
        "gather_bank_differs_by": float((whole - delta).abs().max()),
        "noise": {space: _finite(moments.trace) for space, moments in trainer.noise.items()},
    }
    accelerator.free_memory(engine)
    if middle:
        if accelerator.is_main_process:
            write_tensors(out / f"{case}.state.safetensors", state, {})
        accelerator.wait_for_everyone()
        elsewhere = Path(os.environ.get("RESUME_ENGINE_PATH_FROM", out))
        source = out if trainer.delta_path else elsewhere
        saved, _ = read_tensors(source / f"{case}.state.safetensors")
        again = trainer.engine(saved, middle)
        trainer.train(again, middle, trainer.steps)
        tensors["resumed"] = again.current_perturbations()
        accelerator.free_memory(again)
    if accelerator.is_main_process:
        write_tensors(out / f"{case}.safetensors", tensors, facts)


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def main(out: Path, cases: list[str]) -> None:
    accelerator = start_accelerator()
    for case in cases:
        run_case(accelerator, case, out)
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
