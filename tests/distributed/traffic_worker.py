"""One rank of the traffic tests: counts a step of every engine and path, one after the other.

Usage, in each rank: THIS OUT P WIDTH SIZE

Starting ranks takes longer than the measurement, so all engines share one start.
"""

import os
import socket
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.benchmark.traffic import count_traffic
from bigbatch_ue.config.sections import GeneratorConfig, OptimizerConfig
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.gradient import delta_step, engine_step
from bigbatch_ue.training.noise_monitor import NoiseMonitor
from tests.helpers.launched import become

RANKS = int(os.environ.get("WORLD_SIZE", "1"))
CASES = (("delta", (1, 4)), ("engine", (1,)), ("engine", (4,)))
ENGINES = ("fsdp2", "ddp", "zero0", "zero1", "zero2", "zero3")
SENT = 200  # offset of `tcpi_bytes_sent` and `tcpi_bytes_retrans` in Linux's `struct tcp_info`


def sent_by_sockets() -> int:
    """Bytes that this process has sent over its open TCP connections, each byte counted once."""
    total = 0
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        try:
            connection = socket.socket(fileno=int(descriptor.name))
        except OSError:  # not a socket, or the folder itself, closed by now
            continue
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            sent, again = struct.unpack_from("QQ", info, SENT)
            total += sent - again
        connection.detach()
    return total


def loss(delta: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
    return delta.index_select(0, torch.as_tensor(micro.generator)).square().flatten(1).sum(1)


def micro_batch(p: int) -> MicroBatch:
    return MicroBatch(torch.empty(p), np.arange(p), None, np.ones(p, np.float32))  # type: ignore[arg-type]


def count(path: str, passes: tuple[int, ...], bank: GeneratorBank) -> list[dict[str, Any]]:
    """Count the traffic of a step for each number of micro-batches; the first two steps set up."""
    accelerator = start_accelerator()
    p, parameters = len(bank.noise), sum(each.numel() for each in bank.parameters())
    accumulation = 1 if path == "delta" else passes[0]
    engine = Engine(accelerator, bank, OptimizerConfig(name="adam"), accumulation)

    def step(micro_batches: int) -> None:
        micros, exchange = iter([micro_batch(p)] * micro_batches), StepExchange(engine)
        if path == "engine":
            engine_step(engine, loss, micros, 1e-3, exchange)
            return
        batch = [RANKS * micro_batches] * p
        monitor = NoiseMonitor(engine, batch, in_parameters=False)
        delta_step(engine, loss, micros, 1e-3, exchange, monitor)

    records = []
    for micro_batches in passes:
        step(micro_batches)
        step(micro_batches)
        accelerator.wait_for_everyone()
        before = sent_by_sockets()
        with count_traffic() as traffic:
            step(micro_batches)
        after = sent_by_sockets()
        records.append(
            {
                "engine": engine.name,
                "path": path,
                "micro_batches": micro_batches,
                "parameters": 4 * parameters,
                "calls": [asdict(call) for call in traffic.calls],
                "bytes_sent": traffic.bytes_sent,
                "really_sent": after - before,
            }
        )
    accelerator.free_memory(engine)
    return records


def main(out: Path, p: int, width: int, size: int) -> None:
    records = []
    for engine in ENGINES:
        for path, passes in CASES:
            become(Path(f"launchers/accelerate/{engine}.yaml"))
            bank = GeneratorBank(p, 3, size, GeneratorConfig(width=width), seed=0)
            records += count(path, passes, bank)
    if os.environ["RANK"] == "0":
        write_json(out, records)
    start_accelerator().end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
