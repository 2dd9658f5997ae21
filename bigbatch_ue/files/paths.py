"""Paths: as users write them, checked, and without the home folder."""

import stat
from pathlib import Path

from bigbatch_ue.runtime.errors import UserError


def require_file(path: Path) -> Path:
    """Return `path` if it is a regular file: a pipe would block, and a device has no end.

    Raises:
        UserError: it does not exist, or is something else.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileNotFoundError):
            reason = "no such file; check the path"
        raise UserError(f"{path}: {reason}") from None
    raise UserError(f"{path}: not a file")


def expand_path(text: str) -> Path:
    """Expand `~` in a path that a user has written.

    Raises:
        UserError: the home folder does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no such home folder") from None


def hide_home(text: str) -> str:
    """Replace the home folder by `~` in `text`, for files that may be published."""
    return text.replace(str(Path.home()), "~")
