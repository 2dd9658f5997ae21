"""A run's gradient noise: measured on the way, kept through a resume, paid for with a hundredth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbatch_ue.artefacts import read_json
from bigbatch_ue.flops import count_flops
from bigbatch_ue.noise import GROUPS
from bigbatch_ue.plan import make_plan
from bigbatch_ue.run import Run
from bigbatch_ue.settings import load
from bigbatch_ue.train import train
from bigbatch_ue.watch import measured_every
from tests.test_train import perturbations, tiny

CUT = ("batch.micro=4", "noise.every=2")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return train(tiny(tmp_path_factory.mktemp("watch"), *CUT))


def test_every_step_and_every_second_step_are_measured(watched: Run) -> None:
    scale = read_json(watched.result)["noise_scale"]
    assert scale["delta"]["measurements"] == 6
    assert scale["parameters"]["measurements"] == 3
    for space in ("delta", "parameters"):
        assert len(scale[space]["per_cluster"]) == 3
    lines = [json.loads(line) for line in watched.metrics.read_text().splitlines()]
    assert [sorted(line["noise"]) for line in lines] == [["delta", "parameters"], ["delta"]] * 3
    assert np.isfinite(watched.noise("delta", 3)).all()
    assert np.isfinite(watched.noise("parameters", 3)[0, ::2]).all()
    assert np.isnan(watched.noise("parameters", 3)[:, 1::2]).all()


def test_tensorboard_shows_it(watched: Run) -> None:
    board = EventAccumulator(str(watched.folder / "tensorboard")).Reload()
    tags = [tag for tag in board.Tags()["scalars"] if tag.startswith("noise_scale")]
    assert tags
    assert all(board.Scalars(tag)[0].value > 0 for tag in tags)


def test_measuring_it_changes_nothing(watched: Run, tmp_path: Path) -> None:
    unwatched = train(tiny(tmp_path, "batch.micro=4", "noise.every=0"))
    assert torch.equal(perturbations(unwatched), perturbations(watched))
    assert read_json(unwatched.result)["noise_scale"]["parameters"] is None
    assert unwatched.answer == watched.answer


def test_one_micro_batch_tells_nothing(tmp_path: Path) -> None:
    run = train(tiny(tmp_path, "batch.micro=24"))
    assert read_json(run.result)["noise_scale"] == {"delta": None, "parameters": None}


@pytest.mark.parametrize("effective", [16, 256, 4096])
@pytest.mark.parametrize("ranks", [1, 8])
def test_it_costs_a_hundredth_of_the_work(effective: int, ranks: int) -> None:
    config = load("pets", overrides=[f"batch.effective={effective}", "batch.extend=views"])
    flops = count_flops(config, 3)
    plan = make_plan(config, [368] * 10, ranks)
    period = measured_every(config, plan, flops)
    forward = 10 * flops.generator / 3
    measurement = forward * (1 + 2 * GROUPS) / ranks
    step = plan.passes * flops.image / ranks + 10 * flops.generator
    assert measurement / period <= step / 100
    assert period == 1 or measurement / (period - 1) > step / 100


def test_the_period_may_be_given() -> None:
    for every in (0, 7):
        config = load("pets", overrides=[f"noise.every={every}"])
        plan = make_plan(config, [368] * 10, 1)
        assert measured_every(config, plan, count_flops(config, 3)) == every
