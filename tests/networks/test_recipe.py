"""The recipe of training: batches, and the one-cycle rate."""

import numpy as np
import pytest

from bigbatch_ue.networks.recipe import cut_into_batches, one_cycle


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (6, 4), (129, 64), (7, 100)])
def test_batches_hold_each_image_once_and_never_one_alone(count: int, size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    cut = cut_into_batches(order, size)
    assert np.array_equal(np.concatenate(cut), order)
    assert all(2 <= len(batch) <= size + 1 for batch in cut) or count == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_one_cycle_rises_to_its_peak_and_falls(steps: int) -> None:
    rates = np.array([one_cycle(step, steps) for step in range(steps)])
    assert (rates > 0).all()
    assert (rates <= 1).all()
    assert rates.max() > 0.6
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
