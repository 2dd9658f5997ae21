"""Energy that was used, where the driver tells: NVML of a GPU, RAPL of a CPU package."""

from pathlib import Path

import torch

_RAPL = Path("/sys/class/powercap")


def energy(device: torch.device) -> float | None:
    """Joules counted so far by the device, or by the packages of a CPU; None where nothing tells.

    Differences mean something, the value itself does not; a counter that wrapped gives a negative
    difference.
    """
    return _of_gpu(device) if device.type == "cuda" else _of_packages(_RAPL)


def _of_gpu(device: torch.device) -> float | None:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # the library's own errors, whichever of its parts is missing
        return None
    return millijoules / 1e3


def _of_packages(rapl: Path) -> float | None:
    try:
        counters = [int(path.read_text()) for path in rapl.glob("intel-rapl:?/energy_uj")]
    except OSError:
        return None
    return sum(counters) / 1e6 if counters else None
