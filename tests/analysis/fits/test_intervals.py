import numpy as np

from analysis.fits.intervals import ALPHA, PERCENTILES, fieller


def test_the_level_is_five_percent_exactly() -> None:
    assert ALPHA == 0.05
    assert PERCENTILES == (2.5, 97.5)


def test_fiellers_interval_covers_a_ratio_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    for denominator in (1.0, 3.0):
        means = random.multivariate_normal([2.0, denominator], covariance, 20_000)
        inside = 0
        for numerator, other in means:
            low, high = fieller(numerator, other, covariance, 1.96)
            inside += low <= 2 / denominator <= high
        # Where it is unbounded, the whole line stands for it.
        assert 0.945 <= inside / len(means) <= (0.965 if denominator == 3 else 1)


def test_fiellers_interval_tends_to_the_delta_method() -> None:
    covariance = np.diag([1e-6, 4e-6])
    half = 1.96 * np.sqrt(1e-6 / 9 + 4e-6 * 4 / 81)
    np.testing.assert_allclose(
        fieller(2.0, 3.0, covariance, 1.96), (2 / 3 - half, 2 / 3 + half), rtol=1e-4
    )


def test_fiellers_interval_is_the_whole_line_where_the_denominator_may_be_zero() -> None:
    assert fieller(1.0, 1.9, np.eye(2), 1.96) == (-np.inf, np.inf)
