import numpy as np
import pytest

from analysis.fits.families import FAMILIES, Grid, refine
from analysis.fits.noise_model import estimate_noise, successful_runs
from tests.helpers.simulated_sweeps import BATCHES, X, hinge, sweeps


def test_the_grid_agrees_with_refined_fits() -> None:
    sweep = sweeps(hinge(7.4), 1, noise=0.5)[0]
    runs = successful_runs(BATCHES, sweep)
    noise = estimate_noise(runs)
    means = noise.to_means @ runs.accuracy
    for each in FAMILIES:
        start = Grid(each, X, noise.whiten).fit(means[None])
        refined, errors = refine(each, X, means, noise.whiten, start)
        rough = dict(zip(each.linear, start.linear[0].tolist(), strict=True))
        if each.bend:
            rough[each.bend] = float(start.bend[0])
        tolerance = 0.1 if each.refined else 1e-6
        assert refined == pytest.approx(rough, abs=tolerance)
        assert all(np.isfinite(errors[name]) for name in each.linear)
