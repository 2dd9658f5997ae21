import numpy as np
import pytest

from analysis.fits.noise_model import estimate_noise, successful_runs
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.simulated_sweeps import BATCHES, FLAT, X, spread, sweeps, unshared


def test_the_smoothed_deviation_follows_the_true_one() -> None:
    found = [estimate_noise(successful_runs(BATCHES, s)).std for s in sweeps(FLAT, 100, seeds=5)]
    assert np.mean(found, 0) == pytest.approx(spread(X), rel=0.15)
    raw = sweeps(FLAT, 100, seeds=5, shared=0).std(2, ddof=1)
    assert (np.std(np.log(found), 0) < 0.75 * np.std(np.log(raw), 0)).all()


def test_sizes_where_all_runs_are_equal_do_not_rule_the_fit() -> None:
    sweep = sweeps(FLAT, 1, seeds=30)[0]
    sweep[5:] = 0.7
    std = estimate_noise(successful_runs(BATCHES, unshared(sweep))).std
    assert std.min() ** 2 >= 0.099 * (sweep.var(1, ddof=1)).mean()


def test_runs_that_all_agree_have_a_smallest_deviation() -> None:
    assert estimate_noise(successful_runs(BATCHES, np.full((11, 4), 0.37))).std.min() > 1e-4


@pytest.mark.parametrize(
    ("kept", "runs", "words"), [(2, 5, "at least 3"), (11, 1, "fewer than 2 runs")]
)
def test_too_little_to_fit_is_said_in_one_line(kept: int, runs: int, words: str) -> None:
    sweep = np.full((11, 5), np.nan)
    sweep[:kept, :runs] = 0.5
    with pytest.raises(UserError, match=words) as caught:
        estimate_noise(successful_runs(BATCHES, sweep))
    assert "\n" not in str(caught.value)


def test_seeds_too_thinly_shared_are_refused() -> None:
    gap = np.nan
    chain = np.array([[0.1, 0.2, gap], [gap, 0.3, 0.4], [0.5, gap, gap], [gap, gap, 0.6]])
    with pytest.raises(UserError, match="too few runs share a seed"):
        estimate_noise(successful_runs(BATCHES[:4], chain))
