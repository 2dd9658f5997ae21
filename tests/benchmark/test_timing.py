"""Timing of work on a device."""

import time

import torch

from bigbatch_ue.benchmark.timing import fastest, matmul_peak, timed

CPU = torch.device("cpu")


def test_the_result_and_its_seconds_are_returned() -> None:
    result, seconds = timed(lambda: time.sleep(0.02) or 7, CPU)
    assert result == 7
    assert 0.02 <= seconds < 1


def test_the_fastest_repetition_counts_but_not_the_warm_up() -> None:
    pauses = iter([0.0, 0.2, 0.02, 0.2])
    assert 0.02 <= fastest(lambda: time.sleep(next(pauses)), CPU, repeats=3) < 0.2
    assert list(pauses) == []


def test_the_peak_is_that_of_real_products() -> None:
    peak = matmul_peak(CPU, torch.float32, repeats=1)
    assert 1e8 < peak < 1e15
