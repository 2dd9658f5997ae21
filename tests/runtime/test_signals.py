"""Signals and time limits: when a process stops, and why."""

import signal

import pytest

from bigbatch_ue.runtime.signals import Interrupted, StopRequest, raising_on_signals


def test_outside_training_a_signal_ends_the_work_at_once() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGUSR1"), raising_on_signals():
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_terminal_that_closes_stops_the_work_unless_that_is_ignored() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGHUP"), raising_on_signals():
        signal.raise_signal(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with raising_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_a_request_to_stop_while_it_is_listened_to() -> None:
    request = StopRequest()
    with request.listening():
        assert request.reason() is None
        signal.raise_signal(signal.SIGTERM)
        assert request.reason() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_time_limit_leaves_time_for_what_comes_next() -> None:
    assert StopRequest().reason(ahead=1e9) is None
    assert StopRequest(minutes=1e6).reason() is None
    assert StopRequest(minutes=1e6).reason(ahead=1e9) == "time limit of 1e+06 min"
