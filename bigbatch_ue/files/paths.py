"""Paths as users write them, and as they may be published."""

import stat
from pathlib import Path

from bigbatch_ue.runtime.errors import UserError


def require_file(path: Path) -> Path:
    """`path`, which must be a file: opening a pipe waits for ever, and a device has no end.

    Raises:
        UserError: there is none, or something else.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}") from None
    raise UserError(f"{path}: not a file")


def expand_path(text: str) -> Path:
    """The path that a user has written, `~` being a home folder.

    Raises:
        UserError: nobody's home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such home folder") from None


def hide_home(text: str) -> str:
    """`text` without the way to the user's home folder, for what may be passed on."""
    return text.replace(str(Path.home()), "~")
