"""Stopping in good order: what SIGTERM, SIGUSR1 and a time limit do.

Schedulers announce pre-emption and the end of a job by a signal. Training answers it with a
checkpoint at the next optimizer step (`Stop`); everything else, whose outputs appear whole or not
at all, ends at once (`interruptible`). Both end with `EXIT_CODE`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 75
"""`EX_TEMPFAIL` of sysexits.h: nothing is lost, the same command with `--resume` goes on."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_STARTED = time.monotonic()


class Interrupted(BaseException):
    """The work was stopped in good order; the message is one line that says how to go on.

    Like `KeyboardInterrupt` it is no `Exception`: what mends errors shall not hold it up.
    """


@contextmanager
def handling_signals(answer: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Have `answer` called for each of `SIGNALS` meanwhile, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        answer(signal.Signals(number))

    before = {each: signal.signal(each, heard) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Have `SIGNALS` raise `Interrupted` at once."""

    def interrupt(number: signal.Signals) -> None:
        raise Interrupted(f"stopped by {number.name}; the same command goes on from here")

    with handling_signals(interrupt):
        yield


class StopRequest:
    """Whether this process is to stop, by a signal or because its time is over.

    Args:
        minutes: after which it is to stop, from the start of the process; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._minutes = minutes
        self._signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have `SIGNALS` noted instead of ending the process."""

        def note(number: signal.Signals) -> None:
            self._signal = number

        with handling_signals(note):
            yield

    def reason(self, ahead: float = 0.0) -> str | None:
        """Why to stop now, if what comes next takes `ahead` seconds; None: go on."""
        if self._signal is not None:
            return self._signal.name
        if self._minutes is not None:
            left = 60 * self._minutes - (time.monotonic() - _STARTED)
            if left < ahead:
                return f"time limit of {self._minutes:g} minutes"
        return None
