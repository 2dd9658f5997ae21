"""Ranks and engines by name: known from the environment, before any engine is started."""

import os
from enum import StrEnum

from bigbatch_ue.runtime.errors import UserError

_RANK_GROUP = "BIGBATCH_UE_GROUP"
_BESIDE_SIZE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_START = "unset it, or start ranks with accelerate launch"


def is_main_process() -> bool:
    """Return whether this process is rank 0 of the first rank group, or runs without a launcher."""
    return os.environ.get("RANK", "0") == os.environ.get(_RANK_GROUP, "0") == "0"


def enter_rank_group(index: int, rank: int, size: int) -> None:
    """Make this process `rank` of the `size` ranks of rank group `index` (`cluster_groups`)."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), _RANK_GROUP: str(index)}


def world_size() -> int:
    """Return the number of ranks that the launcher started, 1 without a launcher.

    Raises:
        UserError: the variables of a launcher cannot be those of one.
    """
    check_launcher_variables()
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launcher_variables() -> None:
    """Check the environment before Accelerate and torch rely on it.

    Raises:
        UserError: a variable is not a number, out of range or missing beside the others, or MPI
            started several processes, which would all train alone.
    """
    sizes = {name: _number(name, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    for name, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        rank, count = _number(name, 0), sizes[size]
        if rank and count is None and size == "WORLD_SIZE":
            raise UserError(f"{name}={rank}: {size} must be set too; {_START}")
        if rank is not None and count is not None and rank >= count:
            raise UserError(f"{name}={rank}: must be less than {size}={count}; {_START}")
    if (sizes["WORLD_SIZE"] or 1) > 1:
        missing = [name for name in _BESIDE_SIZE if name not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE={sizes['WORLD_SIZE']}: {', '.join(missing)} must be set too; {_START}"
            )
    for name in _MPI_SIZES:
        if "WORLD_SIZE" not in os.environ and (_number(name, 1) or 1) > 1:
            raise UserError(
                f"{name}={os.environ[name]}: MPI started this process, and each would train alone; "
                f"{_START}"
            )


def _number(name: str, smallest: int) -> int | None:
    """Return an environment variable as a number; None if it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < smallest:
        raise UserError(f"{name}={text!r}: must be a number from {smallest} on; {_START}")
    return int(text)


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
