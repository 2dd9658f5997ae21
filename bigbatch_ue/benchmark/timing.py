"""Timing: one piece of work on a device, its fastest repetition, and a step over all ranks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator

from bigbatch_ue.runtime.device import synchronise
from bigbatch_ue.runtime.memory import peak_memory, reset_peak_memory

_Result = TypeVar("_Result")


def timed(work: Callable[[], _Result], device: torch.device) -> tuple[_Result, float]:
    """Do `work` on `device`; return its result and the seconds until the device has finished."""
    synchronise(device)
    began = time.perf_counter()
    result = work()
    synchronise(device)
    return result, time.perf_counter() - began


def fastest(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the seconds of the fastest of `repeats` runs of `work`, after one to warm up."""
    _, *seconds = (timed(work, device)[1] for _ in range(1 + repeats))
    return min(seconds)


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Measure the FLOP/s of products of large square matrices of `dtype`; the fastest counts."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / fastest(lambda: a @ b, device, repeats)


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one step, over all ranks.

    Attributes:
        seconds: of the slowest rank.
        images: through the surrogate, of all ranks together.
        peak_memory_mib: of the rank that needed most.
    """

    seconds: float
    images: int
    peak_memory_mib: float


def measure_step(accelerator: Accelerator, step: Callable[[], int]) -> Measurement:
    """Measure `step`, which returns this rank's images, on all ranks; a collective call."""
    device = accelerator.device
    accelerator.wait_for_everyone()
    reset_peak_memory(device)
    images, seconds = timed(step, device)
    own = torch.tensor([[seconds, images, peak_memory(device)]], dtype=torch.float64, device=device)
    seconds_of, images_of, memory_of = accelerator.gather(own).T
    return Measurement(float(seconds_of.max()), int(images_of.sum()), float(memory_of.max()))
