"""Configurations of tiny runs, and finished runs made without training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.evaluation import outputs
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.protection.perturbations import Perturbations, load_perturbations
from bigbatch_ue.runs.folder import Run, create_run, load_run, open_run
from bigbatch_ue.runs.result import TrainingResult
from bigbatch_ue.training.train import train

COUNT = 3
TINY = (
    "data.size=8",
    "data.limit=300",
    "clusters.count=3",
    "clusters.n_init=1",
    "surrogate.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "surrogate.weights=random",
    "generator.width=4",
    "augment.pad=1",
    "batch.effective=8",
    "budget.steps=6",
    "checkpoint.every=2",
    "compute.precision=float32",
)

STABLE = ("optimizer.lr=1e-5", "optimizer.min_lr=0")
"""At larger learning rates Adam amplifies the rounding of another decomposition: at 1e-4, two ranks
and one differ by up to 0.1 after 24 steps, depending on the seed; here by less than 1e-4."""


def tiny(folder: Path, *overrides: str, name: str = "run") -> Config:
    places = [f"data.root={folder / 'data'}", f"output={folder / name}"]
    return load_config("digits", overrides=[*TINY, *places, *overrides])


def perturbations(run: Run) -> torch.Tensor:
    return read_tensors(run.perturbations)[0]["perturbations"]


def make_run(folder: Path, *overrides: str, scale: float = 1.0, seed: int = 0) -> Path:
    """A finished run of random perturbations, many of them at the bound, without any training."""
    config = load_config(
        overrides=[
            f"output={folder / 'run'}",
            f"data.root={folder / 'cache'}",
            f"clusters.count={COUNT}",
            *overrides,
        ]
    )
    data = prepare_dataset(config.data)
    run = open_run(config, data.identities, resume=False)
    create_run(run, config, data.identity)
    count, *shape = data.train.images.shape
    random = np.random.default_rng(seed)
    assignment = torch.from_numpy(random.integers(COUNT, size=count))
    Clusters(assignment, torch.zeros(COUNT, 2), torch.tensor([1, 2, 0])).save(run.clusters, {})
    delta = random.uniform(-1.3, 1.3, (COUNT, *shape)).clip(-1, 1) * config.generator.eps * scale
    tensors = {"perturbations": torch.from_numpy(delta.astype(np.float32))}
    write_tensors(run.perturbations, tensors, {"answer": run.answer})
    result = TrainingResult(
        dataset=data.name,
        seed=config.seed,
        scope="cluster",
        requested_batch=4,
        effective_batch=4,
        effective_batch_per_generator=(4,) * COUNT,
        optimizer_steps=7,
        images_seen=4 * COUNT * 7,
        learning_rate=1e-3,
        final_loss=(0.0,) * COUNT,
        skipped_steps=0,
        noise_scale={"delta": None, "parameters": None},
        engine="single",
        world_size=1,
        cluster_groups=1,
        micro_batch=4 * COUNT,
        micro_batches=1,
        accumulation="delta",
        compute={},
        device="cpu",
        resumed_at=0,
        seconds=1.0,
        peak_memory_mib=1.0,
        images_per_second=1.0,
        versions={},
    )
    result.write(run.result)
    return run.folder


def load_learned(folder: Path) -> tuple[DataSet, Perturbations]:
    """The data set of a finished run and its perturbations."""
    config, run = load_run(folder)
    data = prepare_dataset(config.data)
    return data, load_perturbations(config, run, data)


SMALL = (
    "data.name=digits",
    "data.size=8",
    "data.limit=160",
    "target.model=resnet18",
    "target.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "target.fit={epochs: 2, batch: 32, lr: 0.05}",
    "augment={pad: 1}",
)
QUICK = (
    *SMALL,
    "target.fit.epochs=1",
    "evaluation.seeds=[0]",
    "evaluation.fractions=[1.0]",
    "evaluation.arms=[clean, random_noise, uc]",
)


@contextmanager
def undrawn() -> Iterator[None]:
    """Evaluations write their results and `about.json`, but no picture, board or page."""
    drawings = ("picture_grid", "write_tensorboard", "write_report")
    with patch.multiple(outputs, **dict.fromkeys(drawings, lambda *_: None)):
        yield


ARMS = "evaluation.arms=[clean, random_noise, shuffled, uc]"
EVALUATED = (
    "data.limit=120",
    "batch.extend=views",
    "budget.kind=epochs",
    "budget.epochs=2",
    "target.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "target.fit.epochs=5",
    "evaluation.seeds=[3, 4]",
    "evaluation.fractions=[0.5, 1.0]",
    ARMS,
)


def make_evaluated_run(folder: Path, name: str, *overrides: str) -> Path:
    """A run, trained and evaluated; nothing of it is drawn."""
    torch.set_num_threads(1)
    run = train(tiny(folder, *EVALUATED, *overrides, name=name))
    with undrawn():
        evaluate(run.folder)
    return run.folder
