"""Calls counted by kind, payload and group, on a backend that only pretends to have ranks."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from bigbatch_ue.benchmark.traffic import Call, Collective, count_traffic

RANKS = 6
BYTES = 24 * 4


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


def group(*members: int) -> dist.ProcessGroup:
    made = dist.new_group(list(members))
    assert isinstance(made, dist.ProcessGroup)
    return made


def everyone() -> dist.ProcessGroup:
    return group(*range(RANKS))


def wait(result: object) -> None:
    if isinstance(result, functional.AsyncCollectiveTensor):
        result.wait()


def whole() -> torch.Tensor:
    return torch.zeros(24)


def part() -> torch.Tensor:
    return torch.zeros(4)


CALLS: dict[str, tuple[float, list[Callable[[], object]]]] = {
    "all_reduce": (
        5 / 3,
        [
            lambda: dist.all_reduce(whole()),
            lambda: functional.all_reduce(whole(), "sum", everyone()),
        ],
    ),
    "all_gather": (
        5 / 6,
        [
            lambda: dist.all_gather([part() for _ in range(RANKS)], part()),
            lambda: dist.all_gather_into_tensor(whole(), part()),
            lambda: functional.all_gather_tensor(part(), 0, everyone()),
        ],
    ),
    "reduce_scatter": (
        5 / 6,
        [
            lambda: dist.reduce_scatter(part(), [part() for _ in range(RANKS)]),
            lambda: dist.reduce_scatter_tensor(part(), whole()),
            lambda: functional.reduce_scatter_tensor(whole(), "sum", 0, everyone()),
        ],
    ),
    "all_to_all": (5 / 6, [lambda: dist.all_to_all_single(whole(), whole())]),
    "broadcast": (1, [lambda: dist.broadcast(whole(), src=0)]),
    "reduce": (1, [lambda: dist.reduce(whole(), dst=0)]),
    "send": (1, [lambda: dist.send(whole(), dst=1)]),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", CALLS)
def test_call_counts_its_whole_payload_and_what_a_rank_sends(kind: str) -> None:
    sent, ways = CALLS[kind]
    for call in ways:
        with count_traffic() as traffic:
            wait(call())
        assert traffic.calls == [Call(kind, BYTES, RANKS)]
        assert traffic.calls[0].bytes_sent == pytest.approx(sent * BYTES)


def test_ranks_are_those_of_the_group() -> None:
    three = group(0, 2, 5)
    with count_traffic() as traffic:
        dist.all_reduce(whole(), group=three)
        wait(functional.all_reduce(whole(), "sum", three))
    assert traffic.calls == [Call("all_reduce", BYTES, 3)] * 2
    assert traffic.bytes_sent == 2 * BYTES * 4 // 3


def test_a_rank_alone_sends_nothing() -> None:
    alone = group(0)
    with count_traffic() as traffic:
        dist.all_reduce(whole(), group=alone)
        dist.broadcast(whole(), src=0, group=alone)
    assert len(traffic.calls) == 2
    assert traffic.bytes_sent == 0


def test_calls_of_one_kind_are_added_and_barriers_send_nothing() -> None:
    with count_traffic() as traffic:
        dist.all_reduce(whole())
        dist.barrier()
        dist.recv(whole(), src=1)
        dist.all_reduce(part().bool())
        dist.broadcast(part(), src=0)
    assert traffic.collectives == {
        "all_reduce": Collective(calls=2, payload=BYTES + 4),
        "broadcast": Collective(calls=1, payload=16),
    }
    assert traffic.bytes_sent == round((BYTES + 4) * 5 / 3 + 16)


def test_only_the_block_is_counted() -> None:
    dist.all_reduce(whole())
    with count_traffic() as traffic:
        whole() + whole()
    dist.all_reduce(whole())
    assert traffic.calls == []


def test_collectives_inside_a_dtensor_are_seen() -> None:
    sharded = distribute_tensor(whole(), init_device_mesh("cpu", (RANKS,)), [Shard(0)])
    with count_traffic() as traffic:
        sharded.softmax(0)  # needs the whole of the sharded dimension
        sharded.full_tensor()
    assert traffic.calls == [Call("all_gather", BYTES, RANKS)] * 2


def test_unknown_collective_is_not_missed_silently() -> None:
    with pytest.raises(NotImplementedError, match="scatter"), count_traffic():
        dist.scatter(part(), [part() for _ in range(RANKS)])
