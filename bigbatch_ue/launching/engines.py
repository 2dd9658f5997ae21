"""Engines by name: the packaged files of Accelerate and DeepSpeed, and how they are launched."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard, get_args

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.extras import require_extra

LaunchedEngine = Literal[
    "single",
    "ddp",
    "fsdp2",
    "zero0",
    "zero1",
    "zero2",
    "zero2_offload",
    "zero3",
    "zero3_offload",
]
ENGINES: tuple[str, ...] = get_args(LaunchedEngine)

_FOLDER = Path(__file__).parent
_MACHINE_RANKS = ("SLURM_NODEID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables in which srun, jsrun and Open MPI, with one task per machine, count the machines."""


@dataclass(frozen=True)
class Machines:
    """The machines of a launch.

    Attributes:
        count: number of machines.
        own: index of this machine, from 0; None if the scheduler says it.
        main_host: name or address of machine 0, as the others reach it; None on one machine.
        main_port: a free port of machine 0.
    """

    count: int = 1
    own: int | None = None
    main_host: str | None = None
    main_port: int = 29500


def is_engine(name: str) -> TypeGuard[LaunchedEngine]:
    """Return whether `name` is that of an engine."""
    return name in ENGINES


def gpus() -> int:
    """Return the number of GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def accelerate_file(engine: LaunchedEngine) -> Path:
    """Return the packaged configuration of Accelerate that starts `engine`."""
    return _FOLDER / "launchers" / "accelerate" / f"{engine}.yaml"


def deepspeed_file(engine: LaunchedEngine) -> Path | None:
    """Return the packaged configuration of DeepSpeed for `engine`; None if it is another's."""
    path = _FOLDER / "ds_configs" / f"{engine}.json"
    return path if path.exists() else None


def launch_arguments(
    engine: LaunchedEngine, ranks: int, machines: Machines, command: Sequence[str]
) -> list[str]:
    """Return the arguments of `launch_ranks` that run a module on the ranks of this machine.

    Args:
        engine: name of the engine.
        ranks: number of ranks on all machines together.
        machines: the machines, of which this is one.
        command: the module, and its arguments.

    Raises:
        UserError: the engine is not installed, or the numbers do not fit together.
    """
    if engine == "single" and ranks != 1:
        raise UserError(f"launch single: starts one rank, not {ranks}; use ddp")
    if ranks % machines.count:
        raise UserError(
            f"--ranks {ranks}: expected the number of ranks on all machines together, a multiple "
            f"of --machines {machines.count}"
        )
    arguments = ["--config_file", str(accelerate_file(engine)), "--num_processes", str(ranks)]
    if (deepspeed := deepspeed_file(engine)) is not None:
        require_extra("deepspeed", "deepspeed", f"launch {engine}")
        arguments += ["--deepspeed_config_file", str(deepspeed)]
    if machines.count == 1:
        arguments += ["--main_process_port", "0"]  # any free port
    else:
        arguments += _rendezvous(machines)
    return [*arguments, "-m", *command]


def _rendezvous(machines: Machines) -> list[str]:
    """Return the arguments by which several machines find each other."""
    if machines.main_host is None:
        raise UserError(
            "--main-host: missing; with several machines, set it to the name or address of "
            "machine 0"
        )
    own = machines.own if machines.own is not None else _machine_rank()
    if own >= machines.count:
        raise UserError(
            f"--machine-rank {own}: expected the index of this machine, from 0 to "
            f"{machines.count - 1}"
        )
    return [
        *("--num_machines", str(machines.count), "--machine_rank", str(own)),
        *("--main_process_ip", machines.main_host, "--main_process_port", str(machines.main_port)),
    ]


def _machine_rank() -> int:
    """Read the index of this machine from the variables of the scheduler."""
    for name in _MACHINE_RANKS:
        if (value := os.environ.get(name, "")).isdecimal():
            return int(value)
    raise UserError(
        "--machine-rank: missing; set it to the index of this machine, from 0 (srun, jsrun and "
        "Open MPI say it themselves)"
    )
