"""A run's gradient noise: measured on the way, at a hundredth of the time, kept by a resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbatch_ue.config.sections import GeneratorConfig, OptimizerConfig
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import read_moments
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.noise_monitor import NoiseSchedule
from bigbatch_ue.training.train import train
from tests.helpers.runs import perturbations, tiny

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
    assert np.isfinite(read_moments(watched.metrics, "delta", 3)).all()
    assert np.isfinite(read_moments(watched.metrics, "parameters", 3)[0, ::2]).all()
    assert np.isnan(read_moments(watched.metrics, "parameters", 3)[:, 1::2]).all()


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


def test_it_costs_a_hundredth_of_the_time() -> None:
    engine = Engine(
        start_accelerator(),
        GeneratorBank(2, 3, 8, GeneratorConfig(width=4), 0),
        OptimizerConfig(),
        1,
    )
    schedule = NoiseSchedule("auto", first=7)
    assert [step for step in range(7, 20) if schedule.due(step)] == [7]
    schedule.took(9.0, 0.29, engine)
    assert not schedule.due(8)
    schedule.took(2.0, 0.0, engine)
    assert [step for step in range(8, 50) if schedule.due(step)] == [22, 37]
    schedule.took(1.0, 0.0, engine)
    assert schedule.due(52)


def test_no_measurement_needs_no_period() -> None:
    schedule = NoiseSchedule("auto", first=0)
    engine = Engine(
        start_accelerator(),
        GeneratorBank(2, 3, 8, GeneratorConfig(width=4), 0),
        OptimizerConfig(),
        1,
    )
    schedule.took(1.0, 0.0, engine)
    assert not any(map(schedule.due, range(1, 9)))


@pytest.mark.parametrize(("every", "measured"), [(0, []), (3, [6, 9])])
def test_the_period_may_be_given(every: int, measured: list[int]) -> None:
    schedule = NoiseSchedule(every, first=4)
    assert [step for step in range(4, 11) if schedule.due(step)] == measured
