"""The model of a step on many nodes: what must hold whatever the machine."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bigbatch_ue.batching.step_plan import even_sizes
from bigbatch_ue.benchmark.machines import (
    H100,
    MACHINES,
    MEASURED,
    MEASURED_GENERATOR,
    MEASURED_SURROGATE,
    MachineName,
)
from bigbatch_ue.benchmark.step_time import (
    PASSES,
    Links,
    Pace,
    StepModel,
    StepTime,
    StepWork,
    fewest_nodes,
)
from bigbatch_ue.benchmark.traffic import Call
from bigbatch_ue.networks.sizes import NetworkSize, resnet_size
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.runtime.ranks import EngineName
from tests.distributed.test_traffic import P_GENERATORS as GENERATORS_OF_TRAFFIC
from tests.distributed.test_traffic import SENT, SMALL

CSV = Path(__file__).parents[2] / "analysis" / "examples" / "scaling" / "scaling.csv"
WORK = StepWork(tuple(even_sizes(65_536, 10)), 7_841_411, 1_024)
PACE = Pace(1e-4, 5e-3, 1.5e-2)
LINKS = Links(inside=1e11, outside=5e10, latency=1e-5)
every_machine = pytest.mark.parametrize("name", MachineName)


def model_of(name: MachineName, groups: int = 1) -> StepModel:
    machine = MACHINES[name]
    pace = machine.gpu.pace(MEASURED_SURROGATE, MEASURED_GENERATOR)
    return StepModel(WORK, pace, machine.links, machine.gpus, groups)


def possible(name: MachineName, groups: int = 1) -> range:
    step = fewest_nodes(groups, MACHINES[name].gpus)
    return range(step, MACHINES[name].nodes + 1, 7 * step)


@pytest.mark.parametrize("engine", EngineName)
def test_one_rank_computes_everything_and_sends_nothing(engine: EngineName) -> None:
    step = StepModel(WORK, PACE, LINKS, gpus=1, engine=engine).at(1)
    assert step == StepTime(65_536 * 1e-4 + 64 * 5e-3, 10 * 1.5e-2, 0.0, 0.0)
    assert StepModel(WORK, PACE, LINKS, gpus=1, engine=engine).bytes_sent(1) == 0


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 1), (3, 4), (5, 8)])
def test_a_rank_sends_what_the_traffic_of_a_ring_is(nodes: int, gpus: int) -> None:
    model, payload = StepModel(WORK, PACE, LINKS, gpus), 4 * WORK.parameters * 10
    ring = Call("all_reduce", payload, nodes * gpus).bytes_sent
    assert model.bytes_sent(nodes) == pytest.approx(ring)
    # each level of the hierarchy has its part, and a node's links carry those of all its GPUs
    inside = 2 * payload * (gpus - 1) / gpus
    outside = 2 * payload * (nodes - 1) / nodes
    assert inside + outside / gpus == pytest.approx(ring)
    messages = 2 * (math.ceil(math.log2(gpus)) + math.ceil(math.log2(nodes)))
    seconds = inside / 1e11 + outside / 5e10 + messages * 1e-5
    assert model.at(nodes).gradient == pytest.approx(seconds)


def test_passes_and_bookkeeping_are_those_that_were_counted() -> None:
    assert {engine: passes / 2 for engine, passes in PASSES.items() if engine != "single"} == SENT
    work = StepWork((8,) * GENERATORS_OF_TRAFFIC, 1, 8)
    step = StepModel(work, PACE, Links(1.0, 1.0, 0.0), gpus=2).at(1)
    assert step.bookkeeping == SMALL


@every_machine
@pytest.mark.parametrize("groups", [1, 2, 10])
def test_strong_scaling_is_never_faster_than_linear(name: MachineName, groups: int) -> None:
    model, counts = model_of(name, groups), possible(name, groups)
    assert max(model.efficiency(nodes) for nodes in counts) <= 1
    doubled = [counts[0] * 2**power for power in range(9)]
    efficiencies = [model.efficiency(nodes) for nodes in doubled]
    assert sorted(efficiencies, reverse=True) == efficiencies
    shares = [step.communication / step.total for step in map(model.at, doubled)]
    assert sorted(shares) == shares


@every_machine
def test_rank_groups_never_take_longer(name: MachineName) -> None:
    for nodes in possible(name, 10):
        one, ten = model_of(name).at(nodes), model_of(name, 10).at(nodes)
        assert ten.total < one.total
        assert ten.generators == pytest.approx(one.generators / 10)
        assert ten.communication < one.communication


def test_as_many_rank_groups_as_ranks_send_nothing() -> None:
    assert StepModel(WORK, PACE, LINKS, gpus=5, groups=10).at(2).communication == 0


def test_the_fullest_rank_group_decides() -> None:
    work = StepWork((5, 1, 1, 9, 9), parameters=1, micro=4)
    step = StepModel(work, Pace(1.0, 0.1, 10.0), LINKS, gpus=1, groups=2).at(2)
    assert step.surrogate == pytest.approx(19 + 0.1 * 5)
    assert step.generators == 30


@pytest.mark.parametrize(
    ("gpus", "groups", "nodes", "spans"), [(6, 2, 1, 1), (6, 3, 2, 2), (6, 1, 4, 4), (6, 4, 6, 2)]
)
def test_a_rank_group_may_lie_on_more_nodes_than_it_fills(
    gpus: int, groups: int, nodes: int, spans: int
) -> None:
    ranks = nodes * gpus // groups
    starts = range(0, nodes * gpus, ranks)
    assert spans == max((s + ranks - 1) // gpus - s // gpus + 1 for s in starts)
    free_inside = Links(math.inf, 1.0, 0.0)
    step = StepModel(WORK, PACE, free_inside, gpus, groups).at(nodes)
    payload = 4 * WORK.parameters * math.ceil(10 / groups)
    assert step.gradient == pytest.approx(2 * payload * (spans - 1) / spans)


def test_from_how_many_nodes_on() -> None:
    slow = replace(MACHINES[MachineName.SUMMIT].links, outside=2e9)
    model = replace(model_of(MachineName.SUMMIT), links=slow)
    first = model.first_where(StepTime.is_held_by_communication, 4_608)
    assert first is not None
    assert 1 < first < 4_608
    for nodes, held in ((first - 1, False), (first, True), (4_608, True)):
        step = model.at(nodes)
        assert (step.communication / step.total > 0.1) is held
    assert model.first_where(StepTime.is_held_by_communication, first - 1) is None


def test_the_measured_pace_solves_the_measured_steps() -> None:
    with CSV.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if "H100" in row["device"]]
    delta = {
        (int(row["effective_batch"]), int(row["micro_batch"])): float(row["step_s"])
        for row in rows
        if row["path"] == "delta"
    }
    cases = [(1024, 64), (1024, 1024), (4096, 1024)]
    factors = [[10 * batch, math.ceil(10 * batch / micro), 10] for batch, micro in cases]
    solved = np.linalg.solve(factors, [delta[case] for case in cases])
    assert [*vars(MEASURED).values()] == pytest.approx(solved, rel=1e-3)
    other = StepModel(StepWork((256,) * 10, 1, 64), MEASURED, LINKS, gpus=1).at(1)
    assert (f"{other.total:.2f}", f"{delta[256, 64]:.2f}") == ("0.63", "0.76")


def test_an_h100_has_the_measured_pace_and_others_are_slower() -> None:
    assert resnet_size(NetworkSpec("resnet50", 3, 224)) == MEASURED_SURROGATE
    assert H100.pace(MEASURED_SURROGATE, MEASURED_GENERATOR) == MEASURED
    float32 = H100.pace(MEASURED_SURROGATE, MEASURED_GENERATOR, bf16=False)
    assert float32.image == pytest.approx(2 * MEASURED.image)
    for machine in MACHINES.values():
        pace = machine.gpu.pace(MEASURED_SURROGATE, MEASURED_GENERATOR)
        assert pace.image >= MEASURED.image
        assert pace.generator >= MEASURED.generator


@every_machine
def test_no_gpu_exceeds_its_peak_of_operations(name: MachineName) -> None:
    gpu = MACHINES[name].gpu
    dense = NetworkSize(parameters=1, activations=1, operations=10**12)
    pace = gpu.pace(dense, dense)
    assert 2e12 / pace.image == pytest.approx(gpu.bf16 or gpu.float32)
    assert 3e12 / pace.generator == pytest.approx(gpu.float32)
