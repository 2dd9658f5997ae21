"""Traffic between ranks: every collective call is counted where PyTorch dispatches it.

PyTorch's dispatcher receives each collective call, whatever makes it (DDP's reducer in C++, FSDP2's
hooks in the backward pass, DeepSpeed) and whatever backend executes it (gloo, nccl). A dispatch
mode sees it there with its tensors and its process group. This takes time: never measure the time
of a step whose traffic is counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_c10d: Any = dist.distributed_c10d
_NAMESPACES = ("c10d", "_c10d_functional", "symm_mem")
_SENT_OF_PAYLOAD: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda k: 2 * (k - 1) / k,
    "all_gather": lambda k: (k - 1) / k,
    "all_to_all": lambda k: (k - 1) / k,
    "reduce_scatter": lambda k: (k - 1) / k,
    "reduce": lambda k: min(k - 1, 1),
    "broadcast": lambda k: min(k - 1, 1),
    "send": lambda k: 1,
}
"""Fraction of the payload that a rank sends in a process group of k ranks, by kind of call.

In a ring it is the minimum (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
clusters of workstations", 2009). In a pipelined chain, every rank but the last sends the whole
payload, and that is counted here. A backend may send more: gloo implements reduce-scatter as an
all-reduce.
"""
_SILENT = ("barrier", "monitored_barrier", "recv", "irecv")


@dataclass(frozen=True)
class Call:
    """One collective call of this rank.

    Attributes:
        kind: `all_reduce`, `all_gather`, `all_to_all`, `reduce_scatter`, `reduce`, `broadcast` or
            `send`.
        payload: bytes of the whole tensor that is reduced, gathered from all ranks, or scattered to
            all ranks.
        ranks: size of the process group.
    """

    kind: str
    payload: int
    ranks: int

    @property
    def bytes_sent(self) -> float:
        """Number of bytes that this rank sends under the bandwidth-optimal algorithm."""
        return self.payload * _SENT_OF_PAYLOAD[self.kind](self.ranks)


@dataclass(frozen=True)
class Collective:
    """All calls of one kind: their number, and the sum of their payloads in bytes."""

    calls: int
    payload: int


@dataclass
class Traffic:
    """The collective calls of this rank, in the order of the calls."""

    calls: list[Call] = field(default_factory=list)

    @property
    def bytes_sent(self) -> int:
        """Number of bytes that this rank sends under the bandwidth-optimal algorithms."""
        return round(sum(call.bytes_sent for call in self.calls))

    @property
    def collectives(self) -> dict[str, Collective]:
        """The calls by kind."""
        payloads: dict[str, list[int]] = {}
        for call in self.calls:
            payloads.setdefault(call.kind, []).append(call.payload)
        return {kind: Collective(len(each), sum(each)) for kind, each in payloads.items()}


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the bytes that this rank sends in the `with` block, on any engine.

    Raises:
        NotImplementedError: a kind of collective call that is not known here; none is left out
            silently.
    """
    traffic = Traffic()
    with _CallCounter(traffic):
        yield traffic


class _CallCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, traffic: Traffic) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = traffic

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # DTensor then dispatches its own calls, which are counted
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace in _NAMESPACES:
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
            self._add(func._schema.name.split("::")[1], given | kwargs, result)
        return result

    def _add(self, name: str, given: dict[str, Any], result: Any) -> None:
        name = name.strip("_")
        group = given.get("process_group", given.get("group_name"))
        if group is None or name.startswith(_SILENT):
            return
        plain = name.replace("_", "")
        kind = next((k for k in _SENT_OF_PAYLOAD if plain.startswith(k.replace("_", ""))), None)
        if kind is None:
            raise NotImplementedError(f"the traffic of {name} is not known")
        payload = max(map(_total_bytes, (*given.values(), result)))
        self.traffic.calls.append(Call(kind, payload, _group_size(group)))


def _total_bytes(tensors: Any) -> int:
    return sum(t.nbytes for t in tree_leaves(tensors) if isinstance(t, Tensor))


def _group_size(group: Any) -> int:
    if isinstance(group, str):
        group = _c10d._resolve_process_group(group)
    elif isinstance(group, torch.ScriptObject):
        group = dist.ProcessGroup.unbox(group)
    return int(group.size())
