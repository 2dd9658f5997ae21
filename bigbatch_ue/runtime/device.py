"""What a device is called, and what it does fast."""

import os
import platform
import re
import time
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Its maker's name; of a CPU, with the number of cores that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = _CPU_INFO.exists() and re.search(r"model name\s*: (.+)", _CPU_INFO.read_text())
    name = found[1].strip() if found else platform.processor() or platform.machine()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: where the hardware multiplies it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def synchronise(device: torch.device) -> None:
    """Wait until what was started on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of the fastest of a few products of square matrices of `dtype`."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        synchronise(device)
        began = time.perf_counter()
        a @ b
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])
