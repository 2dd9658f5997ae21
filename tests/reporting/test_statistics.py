import numpy as np
import pytest
from scipy import stats

from bigbatch_ue.reporting.statistics import CONFIDENCE, half_width, last_quarter, summarise

VALUES = [0.2, 0.31, 0.27, 0.29]


def test_the_interval_is_that_of_scipy() -> None:
    low, high = stats.t.interval(
        CONFIDENCE, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES)
    )
    found = summarise(VALUES)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert half_width(float(np.std(VALUES, ddof=1)), 4) == pytest.approx((high - low) / 2)


def test_a_single_value_has_no_interval() -> None:
    found = summarise([0.2])
    assert (found.count, found.mean, found.std, found.low, found.high) == (1, 0.2, None, None, None)


def test_the_last_quarter_is_rounded_up() -> None:
    assert [last_quarter(epochs) for epochs in (1, 4, 5, 8)] == [1, 1, 2, 2]
