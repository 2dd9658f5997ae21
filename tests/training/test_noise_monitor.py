"""A run's gradient noise: measured on the way, at a hundredth of the time."""

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

MEASURED = ("batch.micro=4", "noise.every=2")


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return train(tiny(tmp_path_factory.mktemp("monitor"), *MEASURED))


def test_every_step_and_every_second_step_are_measured(monitored: Run) -> None:
    scale = read_json(monitored.result)["noise_scale"]
    assert scale["delta"]["measurements"] == 6
    assert scale["parameters"]["measurements"] == 3
    for space in ("delta", "parameters"):
        assert len(scale[space]["per_cluster"]) == 3
    lines = [json.loads(line) for line in monitored.metrics.read_text().splitlines()]
    assert [sorted(line["noise"]) for line in lines] == [["delta", "parameters"], ["delta"]] * 3
    assert np.isfinite(read_moments(monitored.metrics, "delta", 3)).all()
    assert np.isfinite(read_moments(monitored.metrics, "parameters", 3)[0, ::2]).all()
    assert np.isnan(read_moments(monitored.metrics, "parameters", 3)[:, 1::2]).all()


def test_tensorboard_shows_the_scale(monitored: Run) -> None:
    events = EventAccumulator(str(monitored.folder / "tensorboard")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("noise_scale")]
    assert tags
    assert all(events.Scalars(tag)[0].value > 0 for tag in tags)


def test_measuring_does_not_change_the_result(monitored: Run, tmp_path: Path) -> None:
    unmeasured = train(tiny(tmp_path, "batch.micro=4", "noise.every=0"))
    assert torch.equal(perturbations(unmeasured), perturbations(monitored))
    assert read_json(unmeasured.result)["noise_scale"]["parameters"] is None
    assert unmeasured.answer == monitored.answer


def test_one_micro_batch_gives_no_estimate(tmp_path: Path) -> None:
    run = train(tiny(tmp_path, "batch.micro=24"))
    assert read_json(run.result)["noise_scale"] == {"delta": None, "parameters": None}


@pytest.fixture
def engine() -> Engine:
    bank = GeneratorBank(2, 3, 8, GeneratorConfig(width=4), seed=0)
    return Engine(start_accelerator(), bank, OptimizerConfig(), accumulation=1)


def test_auto_costs_a_hundredth_of_the_time(engine: Engine) -> None:
    schedule = NoiseSchedule("auto", first=7)
    assert [step for step in range(7, 20) if schedule.due(step)] == [7]
    schedule.record(9.0, 0.29, engine)
    assert not schedule.due(8)
    schedule.record(2.0, 0.0, engine)
    assert [step for step in range(8, 50) if schedule.due(step)] == [22, 37]
    schedule.record(1.0, 0.0, engine)
    assert schedule.due(52)


def test_a_measurement_that_took_no_time_is_not_repeated(engine: Engine) -> None:
    schedule = NoiseSchedule("auto", first=0)
    schedule.record(1.0, 0.0, engine)
    assert not any(map(schedule.due, range(1, 9)))


@pytest.mark.parametrize(("every", "measured"), [(0, []), (3, [6, 9])])
def test_the_period_may_be_given(every: int, measured: list[int]) -> None:
    schedule = NoiseSchedule(every, first=4)
    assert [step for step in range(4, 11) if schedule.due(step)] == measured
