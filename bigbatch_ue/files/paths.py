"""Paths: as users write them, checked, and without the home folder."""

import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from bigbatch_ue.runtime.errors import UserError

_BEFORE, _AFTER = r"(?<![^\s\"'=:,;(\[])", r"(?![^/\s\"'=:,;)\]])"
"""Around the leading part of a path: nothing that belongs to a longer name."""
_MISSING = "no such file"


def require_file(path: Path) -> Path:
    """Return `path` if it is a file that can be read: a pipe would block, a device has no end.

    Raises:
        UserError: it does not exist, or is something else.
    """
    reason = why_unreadable(path)
    if reason is None:
        return path
    remedy = "; check the path" if reason == _MISSING else ""
    raise UserError(f"{path}: {reason}{remedy}")


def why_unreadable(path: Path) -> str | None:
    """Say why `path` is not a file that can be read; None if it is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
        path.open("rb").close()
    except FileNotFoundError:
        return _MISSING
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return str(getattr(error, "strerror", None) or error)
    return None


def composed(name: str) -> str:
    """Return `name` in composed Unicode (NFC): names that look alike are then equal."""
    return unicodedata.normalize("NFC", name)


def expand_path(text: str) -> Path:
    """Expand `~` in a path that a user has written.

    Raises:
        UserError: the home folder does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no such home folder") from None


def short_names(places: Sequence[str]) -> list[str]:
    """Name each place by its last part, and by as many more as tell it from the others.

    `folder:a/images` and `npz:b/images.npz` are `a-images` and `b-images`; alone, each is `images`.
    """
    parts = [_parts(place) for place in places]

    def name(own: tuple[str, ...]) -> str:
        count = 1
        others = [other for other in parts if other != own]
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        return "-".join(own[-count:])

    return list(map(name, parts))


def _parts(place: str) -> tuple[str, ...]:
    """Return the parts of the path in `place`, such as `npz:PATH`, without the suffix `.npz`.

    Of a pattern such as `wds:PATH/{train,test}-*.tar`, they are those of its folder.
    """
    path = Path(place.partition(":")[2] or place)
    if path.name in ("", ".."):
        path = path.resolve()
    if re.search(r"[*?\[{]", path.name):  # a pattern: its folder is what it is known by
        path = path.parent
    *folders, last = path.parts[bool(path.anchor) :] or ("data",)
    return (*folders, last.removesuffix(".npz"))


def hide_home(text: str) -> str:
    """Replace the home folder by `~` where a path in `text` begins with it.

    For what is shown or published; what identifies something keeps its paths.
    """
    try:
        home = str(Path.home())
    except RuntimeError:  # a user without an entry in the system's list
        return text
    if home == "/":
        return text
    return re.sub(rf"{_BEFORE}{re.escape(home)}{_AFTER}", "~", text)
