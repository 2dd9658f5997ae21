import numpy as np
import pytest

from analysis.fits.noise_model import estimate_noise, successful_runs
from analysis.fits.resampling import resample_runs
from tests.helpers.simulated_sweeps import BATCHES, FLAT, X, spread, sweeps, unshared


def test_resampled_runs_vary_as_real_ones() -> None:
    random = np.random.default_rng(0)
    data = sweeps(FLAT, 100, seeds=3)
    for layout in (unshared, lambda sweep: sweep):
        variances = []
        for sweep in data:
            runs = successful_runs(BATCHES, layout(sweep))
            drawn = resample_runs(runs, estimate_noise(runs), 100, random)
            variances.append(drawn.var(0).reshape(11, 3).mean(1))
        expected = spread(X) ** 2 + (0.05**2 if layout is unshared else 0)
        assert np.mean(variances, 0).sum() == pytest.approx(expected.sum(), rel=0.1)
