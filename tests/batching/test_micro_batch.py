"""The largest micro-batch that fits: found by real shortage, halved, remembered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.micro_batch import (
    gradient_fits,
    halve_micro_batch,
    initial_micro_batch,
    remember_micro_batch,
    works_in_memory,
)
from bigbatch_ue.batching.plan import DEFAULT_MICRO_BATCH
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import open_run
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.host import available_memory
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.loop import take_step
from bigbatch_ue.training.setup import choose_micro_batch, prepare_job, start_engine
from bigbatch_ue.training.train import train
from tests.helpers.runs import tiny

CPU = torch.device("cpu")
KIB = 2**10


def config_in(folder: Path, *overrides: str) -> Config:
    return load_config("digits", overrides=[f"data.root={folder}", *overrides])


def test_shortage_of_memory_differs_from_other_errors() -> None:
    assert works_in_memory(lambda: torch.empty(3))
    assert not works_in_memory(lambda: torch.empty(2**60))
    with pytest.raises(RuntimeError, match="must match"):
        works_in_memory(lambda: torch.zeros(2) + torch.zeros(3))


def test_the_probe_goes_through_the_gradient() -> None:
    delta = torch.ones(2, 1, 3, 3)
    sums: list[float] = []

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        sums.append(float(leaf.detach().sum()))
        leaf.register_hook(lambda gradient: sums.append(float(gradient.sum())))
        return (leaf * 5).sum()[None]

    assert gradient_fits(loss, delta)
    assert sums == [0, 90]


def test_halving_ends_at_one_image() -> None:
    assert [halve_micro_batch(n) for n in (128, 9, 2)] == [64, 4, 1]
    with pytest.raises(UserError, match="not even one image fits"):
        halve_micro_batch(1)


def test_what_fitted_is_remembered_for_device_surrogate_and_size(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert initial_micro_batch(config, KIB, CPU) == DEFAULT_MICRO_BATCH["cpu"]
    remember_micro_batch(config, CPU, 48)
    remember_micro_batch(config_in(tmp_path, "data.size=32"), CPU, 12)
    assert initial_micro_batch(config, KIB, CPU) == 48
    assert initial_micro_batch(config_in(tmp_path, "seed=3", "batch.effective=9"), KIB, CPU) == 48
    assert initial_micro_batch(config_in(tmp_path, "data.size=32"), KIB, CPU) == 12
    for other in ("data.size=64", "surrogate.model=resnet50", "compute.checkpointing=true"):
        assert (
            initial_micro_batch(config_in(tmp_path, other), KIB, CPU) == DEFAULT_MICRO_BATCH["cpu"]
        )


def test_a_cpus_memory_is_not_tried_out(tmp_path: Path) -> None:
    room = available_memory()
    guess = initial_micro_batch(config_in(tmp_path), room // 20, CPU)
    assert guess in (4, 8)
    assert initial_micro_batch(config_in(tmp_path), 100 * room, CPU) == 1


def test_what_fits_is_found_and_a_later_shortage_halves_it_again(tmp_path: Path) -> None:
    """The allocator really refuses: above some number of images, the loss allocates too much."""
    accelerator = start_accelerator()
    config = tiny(tmp_path, "batch.micro=auto", "batch.effective=60", "batch.extend=views")
    data = prepare_dataset(config.data)
    job = prepare_job(config, open_run(config, data.identities, resume=False), data, accelerator)
    room = 50

    def loss(delta: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
        if len(micro) > room:
            torch.empty(2**60)
        return job.loss(delta, micro)

    scarce = choose_micro_batch(replace(job, loss=loss), accelerator)
    assert scarce.plan.largest_micro == 45
    engine, expected = start_engine(scarce, accelerator), start_engine(job, accelerator)
    room = 10
    taken = take_step(scarce, engine, 0, 0.01, StepExchange(engine))
    plan = taken.plan
    assert plan.largest_micro <= 10 < 2 * plan.largest_micro + 1
    whole = take_step(job, expected, 0, 0.01, StepExchange(expected))
    assert torch.allclose(taken.losses, whole.losses, rtol=1e-5)
    ours, theirs = engine.current_perturbations(), expected.current_perturbations()
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    assert initial_micro_batch(config, KIB, CPU) == plan.micro


def test_auto_is_found_before_training_and_kept(tmp_path: Path) -> None:
    run = train(tiny(tmp_path, "batch.micro=auto", "batch.effective=60", "batch.extend=views"))
    assert read_json(run.result)["micro_batch"] == 90
    [known] = json.loads(next(tmp_path.rglob("micro-batches.json")).read_text()).values()
    assert known == DEFAULT_MICRO_BATCH["cpu"]
