"""Ranks and engines by name: known from the environment, before any engine is started."""

import os
from enum import StrEnum

_RANK_GROUP = "BIGBATCH_UE_GROUP"


def is_main_process() -> bool:
    """Return whether this process is rank 0 of the first rank group, or runs without a launcher."""
    return os.environ.get("RANK", "0") == os.environ.get(_RANK_GROUP, "0") == "0"


def enter_rank_group(index: int, rank: int, size: int) -> None:
    """Make this process `rank` of the `size` ranks of rank group `index` (`cluster_groups`)."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), _RANK_GROUP: str(index)}


def world_size() -> int:
    """Return the number of ranks that the launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class EngineName(StrEnum):
    """The engine that distributes the generator bank over ranks."""

    SINGLE = "single"
    DDP = "ddp"
    FSDP2 = "fsdp2"
    ZERO0 = "zero0"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"

    @property
    def is_zero(self) -> bool:
        """Whether the engine is DeepSpeed's."""
        return self.startswith("zero")
