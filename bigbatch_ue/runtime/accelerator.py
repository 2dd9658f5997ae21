"""Accelerate: start and check the launcher's engine, and reduce numbers over its ranks."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    KwargsHandler,
)
from torch import Tensor

from bigbatch_ue.runtime.deepspeed_build import load_shared_memory_operator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName, check_launcher_variables, world_size

COLLECTIVE_TIMEOUT = timedelta(hours=2)
_LAUNCHER = ("ACCELERATE_", "FSDP_", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Beginnings of the variables by which launchers start Accelerate."""
_MISMATCH = "launcher: it requests {}, but the engine is {}; check the launcher's configuration"


def _requested(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def start_accelerator() -> Accelerator:
    """Start the engine that the launcher requests, on GPUs if there are any, else on gloo ranks.

    Raises:
        UserError: DeepSpeed without a launcher, variables that cannot be those of a launcher, or a
            rank that does not see the others.
    """
    check_launcher_variables()
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it guesses
    # The bank's noise is a constant buffer: DDP need not send it in every forward pass.
    handlers: list[KwargsHandler] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    if "LOCAL_RANK" in os.environ:
        backend = "gloo" if on_cpu else "nccl"
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=COLLECTIVE_TIMEOUT))
    elif _requested("DEEPSPEED"):
        raise UserError(
            "DeepSpeed: needs a launcher; run bigbatch-ue launch zero2 --ranks N -- ..."
        )
    if on_cpu and _requested("DEEPSPEED"):
        load_shared_memory_operator()
    try:
        accelerator = Accelerator(
            cpu=on_cpu and not _requested("DEEPSPEED"),
            mixed_precision="no",
            kwargs_handlers=handlers,
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=1, sync_with_dataloader=False
            ),
        )
    except (ValueError, KeyError) as error:
        names = [name for name in sorted(os.environ) if name.startswith(_LAUNCHER)]
        raise UserError(
            f"launcher: Accelerate cannot start ({error}); correct or unset the variables "
            f"{', '.join(names)}, or start ranks with accelerate launch"
        ) from None
    if on_cpu and _requested("FSDP") and accelerator.num_processes > 1:
        # Accelerate drops FSDP without a GPU; on its state, FSDP2 runs over gloo.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
    if accelerator.num_processes != world_size():
        raise UserError(
            f"launcher: it started {world_size()} ranks, but this one sees "
            f"{accelerator.num_processes} and would train alone; check the launcher's configuration"
        )
    return accelerator


def engine_name(accelerator: Accelerator) -> EngineName:
    """Identify the engine.

    Raises:
        UserError: the engine is not supported, or not the one that the launcher requests.
    """
    match accelerator.distributed_type:
        case DistributedType.DEEPSPEED:
            name = EngineName(f"zero{accelerator.state.deepspeed_plugin.zero_stage}")
        case DistributedType.FSDP if accelerator.state.fsdp_plugin.fsdp_version == 2:
            name = EngineName.FSDP2
        case DistributedType.FSDP:
            raise UserError("launcher: FSDP1 is not supported; set fsdp_version: 2")
        case DistributedType.MULTI_GPU if accelerator.num_processes == 1:
            name = EngineName.SINGLE  # Accelerate wraps nothing then
        case DistributedType.MULTI_CPU | DistributedType.MULTI_GPU:
            name = EngineName.DDP
        case DistributedType.NO:
            name = EngineName.SINGLE
        case other:
            raise UserError(f"launcher: {other} is not supported; use DDP, FSDP2 or DeepSpeed")
    if _requested("DEEPSPEED") != name.is_zero:
        raise UserError(_MISMATCH.format("DeepSpeed", name))
    if _requested("FSDP") and accelerator.num_processes > 1 and name is not EngineName.FSDP2:
        raise UserError(_MISMATCH.format("FSDP", name))
    return name


def min_over_ranks(accelerator: Accelerator, value: int) -> int:
    """Return the smallest `value` of all ranks, on every rank."""
    values: Tensor = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return int(values.min())


def max_over_ranks(accelerator: Accelerator, value: int) -> int:
    """Return the largest `value` of all ranks, on every rank."""
    return -min_over_ranks(accelerator, -value)
