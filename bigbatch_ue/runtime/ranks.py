"""Ranks, as the launcher's environment variables tell them; known before any engine is started."""

import os
from enum import StrEnum

RANK_GROUP_VARIABLE = "BIGBATCH_UE_GROUP"
"""Environment variable: this rank's group, where groups of ranks own clusters."""


def is_main_process() -> bool:
    """Whether this is rank 0, or there are no ranks; known before any engine is started."""
    return os.environ.get("RANK", "0") == os.environ.get(RANK_GROUP_VARIABLE, "0") == "0"


def world_size() -> int:
    """Ranks that the launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class EngineName(StrEnum):
    """How the generator bank is spread over ranks."""

    SINGLE = "single"
    DDP = "ddp"
    FSDP2 = "fsdp2"
    ZERO0 = "zero0"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self.startswith("zero")
