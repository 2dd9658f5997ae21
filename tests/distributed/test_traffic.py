"""The traffic of two ranks in one optimizer step; on the delta path, whatever the accumulation."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.benchmark.traffic import Call
from tests.helpers.forked import run_ranks

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes of a socket"),
    pytest.mark.skipif(
        not (shutil.which("g++") and shutil.which("ninja")),
        reason="DeepSpeed compiles at its first start: g++ and ninja are needed",
    ),
]

WORKER = str(Path(__file__).with_name("traffic_worker.py"))
P_GENERATORS, WIDTH, SIZE, RANKS = 2, 4, 16, 2
FLAGS, LOSSES, NOISE = 4, P_GENERATORS, 4 * P_GENERATORS
SMALL = 8 * (FLAGS + LOSSES + NOISE)  # bytes of all that ranks say besides parameters and gradients
ENGINES = ("ddp", "fsdp2", "zero0", "zero1", "zero2", "zero3")
SENT = {"ddp": 1.0, "zero0": 1.0, "zero1": 1.5, "zero2": 1.5, "zero3": 1.0, "fsdp2": 1.5}
GLOO = {"all_reduce": 1.0, "reduce_scatter": 1.0, "all_gather": 0.5, "broadcast": 1.0}
Counted = dict[tuple[str, str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """Records of rank 0, by engine, gradient path and number of micro-batches."""
    out = tmp_path_factory.mktemp("traffic") / "rank0.json"
    run_ranks("fsdp2", RANKS, [WORKER, str(out), str(P_GENERATORS), str(WIDTH), str(SIZE)])
    records = json.loads(out.read_text())
    return {(r["engine"], r["path"], r["micro_batches"]): r for r in records}


def calls(record: dict[str, Any]) -> list[Call]:
    return [Call(**call) for call in record["calls"]]


def large(record: dict[str, Any]) -> list[tuple[str, int]]:
    """Kind and payload of the calls that move parameters or gradients."""
    return [(call.kind, call.payload) for call in calls(record) if call.payload > SMALL]


def payloads(record: dict[str, Any], kind: str) -> list[int]:
    return [payload for each, payload in large(record) if each == kind]


def test_every_engine_and_path_was_counted(counted: Counted) -> None:
    assert set(counted) == {(e, p, m) for e in ENGINES for p in ("delta", "engine") for m in (1, 4)}
    assert {call.ranks for record in counted.values() for call in calls(record)} == {RANKS}


def test_counted_bytes_are_those_that_the_sockets_sent(counted: Counted) -> None:
    for case, record in counted.items():
        expected = sum(GLOO[call.kind] * call.payload for call in calls(record))
        headers = 600 * len(record["calls"])
        assert expected <= record["really_sent"] <= expected + headers, case


@pytest.mark.parametrize("engine", ENGINES)
def test_invariant_3_delta_path_sends_the_same_whatever_the_accumulation(
    engine: str, counted: Counted
) -> None:
    one, four = (counted[engine, "delta", micro_batches] for micro_batches in (1, 4))
    assert calls(one) == calls(four)
    assert one["bytes_sent"] == pytest.approx(SENT[engine] * one["parameters"], rel=0.01)


def test_ddp_reduces_the_gradients_once_and_all_the_rest_once(counted: Counted) -> None:
    record = counted["ddp", "delta", 4]
    assert sorted(calls(record), key=lambda call: call.payload) == [
        Call("all_reduce", SMALL, RANKS),
        Call("all_reduce", record["parameters"], RANKS),
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_noise_memory_and_wishes_take_one_reduction_on_every_engine(
    engine: str, counted: Counted
) -> None:
    said = {"delta": SMALL, "engine": 8 * (FLAGS + LOSSES)}
    for path, payload in said.items():
        record = counted[engine, path, 4]
        small = [call for call in calls(record) if call.payload <= SMALL]
        assert small.count(Call("all_reduce", payload, RANKS)) == 1
        if engine not in ("zero1", "zero2", "zero3"):  # there DeepSpeed adds calls of its own
            assert len(small) == 1


@pytest.mark.parametrize("engine", ["ddp", "zero0", "zero1"])
def test_engine_path_reduces_once_where_gradients_are_whole(engine: str, counted: Counted) -> None:
    assert calls(counted[engine, "engine", 4]) == calls(counted[engine, "engine", 1])
    assert large(counted[engine, "engine", 4]) == large(counted[engine, "delta", 4])


def test_engine_path_of_zero2_reduces_every_micro_batch(counted: Counted) -> None:
    one, four = (counted["zero2", "engine", micro_batches] for micro_batches in (1, 4))
    assert (
        payloads(four, "all_reduce") == 4 * payloads(one, "all_reduce") == 4 * [one["parameters"]]
    )
    assert payloads(four, "all_gather") == payloads(one, "all_gather")


def test_engine_path_of_zero3_gathers_and_reduces_every_micro_batch(counted: Counted) -> None:
    one, four = (counted["zero3", "engine", micro_batches] for micro_batches in (1, 4))
    for kind in ("all_gather", "reduce_scatter"):
        assert payloads(four, kind) == 4 * payloads(one, kind)
        assert payloads(one, kind) == [pytest.approx(one["parameters"], rel=0.01)]


def test_engine_path_of_fsdp2_gathers_every_micro_batch_and_reduces_once(counted: Counted) -> None:
    one, four = (counted["fsdp2", "engine", micro_batches] for micro_batches in (1, 4))
    generator = pytest.approx(one["parameters"] / P_GENERATORS, rel=0.01)
    assert payloads(one, "reduce_scatter") == P_GENERATORS * [generator]
    assert payloads(four, "reduce_scatter") == payloads(one, "reduce_scatter")
    assert payloads(one, "all_gather") == 2 * P_GENERATORS * [generator]
    assert payloads(four, "all_gather") == 4 * payloads(one, "all_gather")
