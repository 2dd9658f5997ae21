"""Memory of this process: reuse of freed memory, and the peak."""

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from bigbatch_ue.runtime.host import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors, up to 256 MiB each, for new ones (glibc).

    Otherwise every pass of a network on a CPU gets fresh pages from the system, which took a tenth
    of ResNet-50's time at 224 pixels. Larger tensors are mostly the flat parameters and gradients
    of ZeRO, whose copies would be kept beside each other: 4.9 GiB instead of 3.7 at the peak of a
    step of 20 generators of width 64.
    """
    _libc("mallopt", _M_MMAP_THRESHOLD, 2**28)
    _libc("mallopt", _M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Return freed memory to the system (glibc)."""
    gc.collect()
    _libc("malloc_trim", 0)


def _libc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory` returns, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # other systems, and processes that may not look at themselves
            _RESET.write_text("5")


def peak_memory(device: torch.device) -> float:
    """Return this process's peak memory in MiB: allocated on a GPU, else resident.

    The peak since `reset_peak_memory`, or since the start of the process where the system cannot
    reset it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if _STATUS.exists():
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if peak:
            return int(peak[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (MIB if sys.platform == "darwin" else 1024)
