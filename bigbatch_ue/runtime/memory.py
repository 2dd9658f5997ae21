"""What a plan costs in memory, counted without a single weight being made; what a run took."""

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import prepare
from bigbatch_ue.training.requirements import weightless

_FLOAT = 4
_MIB = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_STATES = {"adam": 2, "adamw": 2, "lamb": 2, "lars": 1, "sgd": 0}
_SHARDED = {
    "zero1": {"optimizer"},
    "zero2": {"optimizer", "gradients"},
    "zero3": {"optimizer", "gradients", "parameters"},
    "fsdp2": {"optimizer", "gradients", "parameters"},
}


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free, up to 1 GiB each, for the next ones (glibc only).

    Else every pass of a network on a CPU gets fresh pages from the system, which took a tenth of
    ResNet-50's time at 224 pixels.
    """
    _libc("mallopt", _M_MMAP_THRESHOLD, 2**30)
    _libc("mallopt", _M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Return what is freed to the system (glibc only)."""
    gc.collect()
    _libc("malloc_trim", 0)


def _libc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)


def forget_peak(device: torch.device) -> None:
    """Begin to watch the peak of this process's memory anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in MiB since `forget_peak`: allocated on a GPU, else resident.

    Where the system cannot forget, it is the peak since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    if _STATUS.exists():
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if peak:
            return int(peak[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (_MIB if sys.platform == "darwin" else 1024)


def expected_memory(
    config: Config, channels: int, micro: int, ranks: int, engine: str
) -> dict[str, float]:
    """Expected memory of one rank during a step, in MiB by part.

    The parts are counted, not measured: float32 tensors that live at the same time, no workspace of
    the kernels, no fragmentation. None of them depends on the effective batch.

    Args:
        config: the resolved configuration.
        channels: C of the images.
        micro: images in the largest micro-batch of a rank.
        ranks: number of ranks.
        engine: `single`, `ddp`, `fsdp2` or `zero0` ... `zero3`.
    """
    surrogate, bank, image = weightless(config, channels)
    activations, generator_activations = _activations(surrogate, image), _activations(bank)
    parameters = sum(p.numel() for p in bank.parameters())
    bank_parts = {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": parameters * _STATES[config.optimizer.name],
    }
    sharded = _SHARDED.get(engine, set())
    numbers = {
        f"generators: {name}": count / (ranks if name in sharded else 1)
        for name, count in bank_parts.items()
    }
    numbers["generators: activations"] = generator_activations
    numbers["surrogate: weights"] = sum(p.numel() for p in surrogate.parameters())
    numbers["surrogate: activations"] = activations * micro
    return {name: count * _FLOAT / _MIB for name, count in numbers.items()}


def _activations(module: nn.Module, *inputs: Tensor) -> int:
    """Elements that the leaves of `module` put out in one forward pass."""
    total = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def plan_table(
    config: Config, ranks: int, images: int | None, engine: str, download: bool
) -> Table:
    """The batch plan of `config` on `ranks` ranks, with clusters of equal size, as a table.

    Args:
        config: the resolved configuration.
        ranks: number of ranks.
        images: train images; None counts (and decodes) the data set's own.
        engine: for the expected memory.
        download: allow the data set to be downloaded.
    """
    channels = 3
    if images is None:
        train = prepare(config.data, download=download).train
        images, channels = len(train), train.images.shape[1]
    p = config.clusters.count
    plan = make_plan(config, [images * (c + 1) // p - images * c // p for c in range(p)], ranks)
    shares = [plan.rank_slice(rank) for rank in range(ranks)]
    micro = plan.largest_micro
    memory = expected_memory(config, channels, micro, ranks, engine)
    table = Table(show_header=False, title=f"{config.data.name}: {images:,} train images")
    rows = {
        "effective batch": f"{plan.effective:,} (requested {plan.requested:,})",
        "generators": f"{p}, scope {config.batch.scope}",
        "images a step": f"{plan.passes:,} through the surrogate",
        "per rank": " + ".join(f"{s.stop - s.start:,}" for s in shares[:8])
        + (" + ..." if ranks > 8 else ""),
        "micro-batches": f"{plan.micro_batches:,} of up to {micro:,} (limit {config.batch.micro})",
        "steps per epoch": f"{plan.steps_per_epoch:,}",
        "total steps": f"{plan.steps:,} (budget: {config.budget.kind})",
        "learning rate": plan.lr_reason,
        "expected memory": f"{sum(memory.values()):,.0f} MiB a rank under {engine}",
        **{f"  {name}": f"{mib:,.1f} MiB" for name, mib in memory.items()},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    if plan.warning:
        table.caption = f"warning: {plan.warning}"
    return table
