"""Orderly stops: the effect of SIGTERM, SIGUSR1, SIGHUP and a time limit.

Schedulers announce pre-emption and the end of a job by a signal, and so does a terminal that
closes. Training then writes a checkpoint after the current optimizer step, or after the next one if
the signal came late in it (`StopRequest`).
Everything else writes its outputs whole or not at all, and ends at once (`raising_on_signals`).
Both end with `EXIT_INTERRUPTED`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 75
"""`EX_TEMPFAIL` of sysexits.h: nothing is lost, and the same command with `--resume` continues."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
HOW_TO_CONTINUE = "run the same command again to continue"

_STARTED = time.monotonic()


class Interrupted(BaseException):
    """An orderly stop; the message is one line that says how to continue.

    Like `KeyboardInterrupt`, it derives from BaseException, so that `except Exception` does not
    catch it.
    """


@contextmanager
def handling_signals(handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `handler` for each of `SIGNALS` in this context, if this is the main thread.

    A signal that the process ignores, as SIGHUP under `nohup`, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        handler(signal.Signals(number))

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise `Interrupted` as soon as one of `SIGNALS` arrives in this context."""

    def interrupt(number: signal.Signals) -> None:
        raise Interrupted(f"stopped by {number.name}; {HOW_TO_CONTINUE}")

    with handling_signals(interrupt):
        yield


def describe_exit(code: int) -> str:
    """Say how a process ended, by its exit code; -n stands for signal n."""
    if code >= 0:
        return f"ended with exit code {code}"
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"


class StopRequest:
    """The request to stop this process, made by a signal or a time limit.

    Args:
        minutes: time limit, from the start of the process; None for no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._minutes = minutes
        self._signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record `SIGNALS` in this context, instead of ending the process."""

        def record(number: signal.Signals) -> None:
            self._signal = number

        with handling_signals(record):
            yield

    def reason(self, ahead: float = 0.0) -> str | None:
        """Return the reason to stop now, or None to continue.

        Args:
            ahead: seconds that the next piece of work takes.
        """
        if self._signal is not None:
            return self._signal.name
        if self._minutes is not None:
            left = 60 * self._minutes - (time.monotonic() - _STARTED)
            if left < ahead:
                return f"time limit of {self._minutes:g} min"
        return None
