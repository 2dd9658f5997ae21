"""Errors the user can fix, and the loss of other ranks."""

import errno
import os
import re
from collections.abc import Sequence

EXIT_LOST_RANK = 76
"""Exit code of a rank that ends because another one ended."""
_LOST_RANK_SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "NCCL")

_REMEDIES = {
    errno.EACCES: "; ask its owner for access, or choose another place",
    errno.ENOSPC: "; free some space, or choose another place",
    errno.EROFS: "; choose another place",
    errno.EEXIST: "; choose another place",
    errno.ENOTDIR: "; choose another place",
}

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and bytes of a file name that are not valid text."""


class UserError(Exception):
    """Bad input, or a state the user can fix; its message is one line that says what to do."""


def user_message(error: Exception) -> str | None:
    """Describe `error` in one line for the user; None if the user cannot fix it."""
    if isinstance(error, UserError):
        return _one_line(str(error))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory: use a smaller data.size, generator.width or batch.effective"
    if "CUDA out of memory" in str(error):
        return (
            "the GPU is out of memory: end other programs on it, or use a smaller batch.micro, "
            "data.size or generator.width"
        )
    if isinstance(error, OSError) and (error.filename or error.strerror):
        remedy = _REMEDIES.get(error.errno or 0, "")
        return _one_line(f"{error.filename or 'output'}: {error.strerror}{remedy}")
    return None


def first_of(names: Sequence[str], count: int = 5) -> str:
    """List the first `count` of `names`, and say how many more there are."""
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Escape the control characters of `text`, but for the ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def is_lost_rank(error: BaseException) -> bool:
    """Return whether `error` says that this rank has lost the connection to another one."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return not alone and any(sign in str(error) for sign in _LOST_RANK_SIGNS)
