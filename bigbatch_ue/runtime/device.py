"""The name and the capabilities of a device."""

import platform
import re
from pathlib import Path

import torch

from bigbatch_ue.runtime.host import usable_cores

_CPU_INFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the manufacturer's name; of a CPU, with the number of cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = _CPU_INFO.exists() and re.search(r"model name\s*: (.+)", _CPU_INFO.read_text())
    name = model[1].strip() if model else platform.processor() or platform.machine()
    cores = usable_cores()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def has_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32, as it is where the hardware multiplies it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def synchronise(device: torch.device) -> None:
    """Wait until all work started on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
