"""Accelerate, started as the launcher asked for and checked, and reductions over its ranks."""

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

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName, world_size

COLLECTIVE_TIMEOUT = timedelta(hours=2)


def _asked_for(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def start_accelerator() -> Accelerator:
    """Start the engine that the launcher asked for, on GPUs if there are any, else on gloo ranks.

    Raises:
        UserError: a rank believes itself alone, or another engine came than was asked for.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it had to guess
    # the bank's noise is a buffer that nobody changes: DDP need not send it in every forward pass
    handlers: list[KwargsHandler] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    if "LOCAL_RANK" in os.environ:
        backend = "gloo" if on_cpu else "nccl"
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=COLLECTIVE_TIMEOUT))
    elif _asked_for("DEEPSPEED"):
        raise UserError(
            "DeepSpeed needs a launcher: accelerate launch --config_file launchers/accelerate/..."
        )
    accelerator = Accelerator(
        cpu=on_cpu and not _asked_for("DEEPSPEED"),
        mixed_precision="no",
        kwargs_handlers=handlers,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1, sync_with_dataloader=False
        ),
    )
    if on_cpu and _asked_for("FSDP") and accelerator.num_processes > 1:
        # Accelerate drops FSDP without a GPU; on its state, FSDP2 runs over gloo.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
    if accelerator.num_processes != world_size():
        raise UserError(
            f"the launcher started {world_size()} ranks, but this one sees "
            f"{accelerator.num_processes}: it would train alone; check the launcher's config"
        )
    return accelerator


def engine_name(accelerator: Accelerator) -> EngineName:
    """Identify the engine.

    Raises:
        UserError: the engine is not supported, or is not what the launcher asked for.
    """
    match accelerator.distributed_type:
        case DistributedType.DEEPSPEED:
            name = EngineName(f"zero{accelerator.state.deepspeed_plugin.zero_stage}")
        case DistributedType.FSDP if accelerator.state.fsdp_plugin.fsdp_version == 2:
            name = EngineName.FSDP2
        case DistributedType.FSDP:
            raise UserError("FSDP1 is not supported: set fsdp_version: 2 in the launcher's config")
        case DistributedType.MULTI_CPU | DistributedType.MULTI_GPU:
            name = EngineName.DDP
        case DistributedType.NO:
            name = EngineName.SINGLE
        case other:
            raise UserError(f"{other} is not supported: use DDP, FSDP2 or DeepSpeed")
    if _asked_for("DEEPSPEED") != name.is_zero:
        raise UserError(f"the launcher asked for DeepSpeed, but the engine is {name}")
    if _asked_for("FSDP") and accelerator.num_processes > 1 and name is not EngineName.FSDP2:
        raise UserError(f"the launcher asked for FSDP, but the engine is {name}")
    return name


def min_over_ranks(accelerator: Accelerator, value: int) -> int:
    """The smallest `value` of all ranks, on every rank."""
    values: Tensor = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return int(values.min())


def max_over_ranks(accelerator: Accelerator, value: int) -> int:
    """The largest `value` of all ranks, on every rank."""
    return -min_over_ranks(accelerator, -value)
