"""The progress of stages that may take long: a bar on a terminal, else a line now and then.

Both say what is done, at which rate, and how long the rest takes.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from bigbatch_ue.runtime.console import message_console, note
from bigbatch_ue.runtime.errors import printable
from bigbatch_ue.runtime.ranks import is_main_process

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal; a shorter stage says nothing."""
_WINDOW, _TICK = 60.0, 0.5
"""Seconds over which the rate is measured, or longer if little is done in them; and its grid."""
_BAR = 12
"""Characters that a bar takes at least, with the spaces beside it."""
_POLL = 1.0
"""Seconds between two looks at a folder that grows."""

T = TypeVar("T")


class Stage:
    """A stage of the work, and how much of it is done.

    Args:
        what: the stage, as a noun.
        unit: what is counted, in the plural; empty if nothing can be counted.
        total: how many there are; None if that is unknown.
        done: how many are done already.
    """

    def __init__(self, what: str, unit: str = "", total: int | None = None, done: int = 0) -> None:
        self._what, self._unit, self.total = printable(what), unit, total
        self._began = time.monotonic()
        self._done = self._first = done
        self._samples = deque([(self._began, done)])
        self.remark = ""

    def advance(self, count: int = 1) -> None:
        """Note that `count` more are done."""
        now = time.monotonic()
        self._done += count
        if len(self._samples) > 1 and now - self._samples[-2][0] < _TICK:
            self._samples.pop()
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _WINDOW:
            self._samples.popleft()

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, and count each when the next is asked for."""
        for item in items:
            yield item
            self.advance()

    @property
    def fraction(self) -> float | None:
        """The part that is done; None if the total is unknown."""
        return None if self.total is None else min(1.0, self._done / max(1, self.total))

    @property
    def title(self) -> str:
        """The stage, with the last remark on it."""
        return f"{self._what}, {self.remark}" if self.remark else self._what

    def counts(self) -> str:
        """Say what is done, the rate, and the time left, as far as these are known."""
        now = time.monotonic()
        if not self._unit:
            return f"{duration(now - self._began)} so far"
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self._done:,}{of} {self._unit}"]
        (since, before), (last, done) = self._samples[0], self._samples[-1]
        if done > before and last > since:
            per_second = (done - before) / (last - since)
            parts.append(rate(per_second, self._unit))
            if self.total is not None:
                left = (self.total - done) / per_second - (now - last)
                parts.append(f"{duration(math.ceil(max(0.0, left)))} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """Say how long the whole stage took."""
        seconds = time.monotonic() - self._began
        if not self._unit:
            return f"{self.title}: {duration(seconds)}"
        done = self._done - self._first
        pace = rate(done / seconds, self._unit)
        return f"{self.title}: {done:,} {self._unit} in {duration(seconds)}, {pace}"


@contextmanager
def progress(
    what: str,
    unit: str = "",
    total: int | None = None,
    *,
    done: int = 0,
    kept: bool = False,
    any_process: bool = False,
) -> Iterator[Stage]:
    """Show the progress of a stage on standard error while this context lasts.

    Args:
        what: as for `Stage`.
        unit: as for `Stage`.
        total: as for `Stage`.
        done: as for `Stage`.
        kept: whether the bar stays on the terminal afterwards.
        any_process: show it whichever process this is, not only on the main process.
    """
    stage = Stage(what, unit, total, done)
    console = message_console()
    if not (any_process or is_main_process()):
        yield stage
    elif console.is_terminal:
        show = partial(_row, stage, console.width)
        with Live(console=console, get_renderable=show, transient=not kept):
            yield stage
    else:
        with _lines(stage):
            yield stage


@contextmanager
def growth(what: str, folder: Path) -> Iterator[None]:
    """Show how much is written into `folder` while this context lasts, but not on a terminal.

    There, libraries that download show a bar of their own; `quiet_libraries` stops them elsewhere.
    """
    if message_console().is_terminal:
        yield
        return
    written = 0

    def look() -> None:
        nonlocal written
        size = _size(folder) // 10**6
        stage.advance(size - written)
        written = size

    with progress(what, "MB", any_process=True) as stage, _repeating(look, _POLL):
        yield


def quiet_libraries() -> None:
    """Keep the bars of libraries out of files and pipes; to be called before they are imported."""
    if not message_console().is_terminal:
        for variable in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(variable, "1")


def _size(folder: Path) -> int:
    """Return the bytes of the files below `folder`, which may be changing."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(parent, name).stat().st_size
    return size


def duration(seconds: float) -> str:
    """Return a duration such as `45 s`, `1 min 30 s` or `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, more = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {more:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def rate(per_second: float, unit: str) -> str:
    """Return a rate to three digits, per second, minute or hour; with the unit if it has one."""
    periods = {"s": 1, "min": 60, "h": 3600}
    period = next((name for name, length in periods.items() if per_second * length >= 1), "h")
    value = per_second * periods[period]
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{shown} {unit}/{period}" if unit.isupper() else f"{shown}/{period}"


@contextmanager
def _repeating(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `action` from a thread every so many seconds while this context lasts."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _lines(stage: Stage) -> Iterator[None]:
    """Print a line on `stage` every `LINE_EVERY` seconds, and one at its end if there was any."""
    said = threading.Event()

    def talk() -> None:
        note(f"{stage.title}: {stage.counts()}", any_process=True)
        said.set()

    with _repeating(talk, LINE_EVERY):
        yield
    if said.is_set():
        note(stage.summary(), any_process=True)


def _row(stage: Stage, width: int) -> Table:
    """Make a line of `width` characters: title, bar and counts; a long title is cut."""
    counts = stage.counts()
    title = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, width - len(counts) - _BAR))
    row = Table.grid(title, Column(ratio=1), Column(no_wrap=True), padding=(0, 1), expand=True)
    done = stage.fraction
    row.add_row(Text(stage.title), ProgressBar(1.0, done or 0.0, pulse=done is None), Text(counts))
    return row
