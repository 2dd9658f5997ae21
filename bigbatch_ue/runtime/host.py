"""What of this machine this process may use: cores and memory."""

import os
from pathlib import Path

import psutil

MIB = 2**20
_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_LIMIT_AND_USE = (
    ("memory.max", "memory.current"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)


def usable_cores() -> int:
    """Return the number of cores on which this process may run."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes that this process can still take: the machine's, or those of its cgroup."""
    return min([psutil.virtual_memory().available, *_left_in_cgroups()])


def _left_in_cgroups() -> list[int]:
    """Return what the limits of the cgroups of this process leave, in bytes."""
    left = []
    for folder in _cgroup_folders():
        for limit, use in _LIMIT_AND_USE:
            try:
                most, used = (int((folder / name).read_text()) for name in (limit, use))
                left.append(max(0, most - used + _reclaimable(folder)))
            except (OSError, ValueError):  # no such file; `max` is no limit
                continue
    return left


def _reclaimable(folder: Path) -> int:
    """Return the bytes of cached files in a cgroup, which count as used until others need them."""
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))


def _cgroup_folders() -> list[Path]:
    """List the folders of the cgroups of this process and of all above them."""
    try:
        lines = _CGROUPS.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _CGROUP_ROOT / controllers
            own = root / path.lstrip("/")
            folders += [own, *(p for p in own.parents if p.is_relative_to(root))]
    return folders
