"""A guard over work in this process: the files it touches, its memory and its time."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import matplotlib
from huggingface_hub import constants

_FILES = {
    "open": 1,
    "os.listdir": 1,
    "os.scandir": 1,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.utime": 1,
    "os.rename": 2,
    "os.link": 2,
    "shutil.copyfile": 2,
    "shutil.copytree": 2,
    "shutil.move": 2,
    "shutil.rmtree": 1,
    "shutil.unpack_archive": 2,
}
"""Audited events, and the number of their first arguments that are paths."""

_NEVER = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.symlink",
    "pickle.find_class",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LIBRARIES = tuple(
    os.path.realpath(place)
    for place in (
        sys.prefix,
        sys.base_prefix,
        Path(__file__).parents[2],
        matplotlib.get_configdir(),
        matplotlib.get_cachedir(),
        constants.HF_HOME,
        *("/usr", "/etc", "/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/shm"),
    )
)
_OWN = (f"/proc/{os.getpid()}/clear_refs",)
"""Files elsewhere that the program may write to: this one resets its peak memory."""
_ROOM = 3 << 30
_SECONDS = 30


class HungError(BaseException):
    """The work took longer than the limit."""


@dataclass
class Watched:
    """A record of some work in the folder `inside`.

    Attributes:
        inside: everything below it may be read and written.
        outside: each access elsewhere, and each process, connection and unpickled name.
        memory: peak growth of the process in bytes.
    """

    inside: str
    outside: list[str] = field(default_factory=list)
    memory: int = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record an audited event if the work must not cause it."""
        if event in _NEVER:
            self.outside.append(f"{event}{arguments!r}"[:300])
        for path in arguments[: _FILES.get(event, 0)]:
            if isinstance(path, (str, bytes, os.PathLike)):
                real = _real(os.fsdecode(path), event)
                reads = event == "open" and not (arguments[2] or 0) & _WRITING
                libraries = _LIBRARIES if reads or event in ("os.listdir", "os.scandir") else ()
                if os.path.basename(os.path.dirname(real)) == "__pycache__":  # noqa: PTH119, PTH120
                    continue  # Python keeps what it compiles at a first import
                if not any(_below(real, place) for place in (self.inside, *_OWN, *libraries)):
                    self.outside.append(f"{event} {real}")


def _real(path: str, event: str) -> str:
    """Resolve the file that is touched; moving or removing a link touches the link itself."""
    if event in ("os.rename", "os.remove"):
        folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
        return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
    return os.path.realpath(path)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


_watched: Watched | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and (event in _FILES or event in _NEVER):
        _watched.hear(event, arguments)


sys.addaudithook(_hear)


@contextmanager
def watched(inside: Path) -> Iterator[Watched]:
    """Watch the work of the block, which may touch `inside` and read libraries.

    It gets no more than 3 GiB of memory, and a `HungError` stops it after half a minute.
    """
    global _watched
    found = Watched(os.path.realpath(inside))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ROOM, hard))
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
    before = _status("VmRSS")
    handler = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 5)
    _watched = found
    try:
        yield found
    finally:
        _watched = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        found.memory = _status("VmHWM") - before
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _hung(_: int, frame: FrameType | None) -> None:
    raise HungError(f"not finished after {_SECONDS} s")


def _status(name: str) -> int:
    """Return a size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
