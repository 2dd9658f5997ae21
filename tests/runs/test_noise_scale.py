"""The gradient noise scale while a run trains."""

import numpy as np
import pytest

from bigbatch_ue.runs.noise_scale import SmoothedNoiseScale


def test_smoothed_is_the_ratio_of_corrected_moving_averages() -> None:
    random = np.random.default_rng(5)
    trace = np.array([100.0, 300.0]) * random.normal(1, 0.2, (30, 2))
    signal = random.normal(3, 1.5, (30, 2))
    trace[4:9, 1] = np.nan
    signal[4:9, 1] = np.nan
    smoothed = SmoothedNoiseScale(decay=0.8)
    for t in range(30):
        found = smoothed.update(trace[t].tolist(), signal[t].tolist())
        for generator in range(2):
            seen = [s for s in range(t + 1) if np.isfinite(trace[s, generator])]
            weights = 0.2 * 0.8 ** np.arange(len(seen))[::-1]
            averages = [
                float(weights @ x[seen, generator]) / (1 - 0.8 ** len(seen))
                for x in (trace, signal)
            ]
            assert averages[1] > 0
            assert found[generator] == pytest.approx(averages[0] / averages[1])


def test_smoothed_shows_nothing_without_estimate_or_signal() -> None:
    smoothed = SmoothedNoiseScale()
    assert smoothed.update([float("nan"), 5.0], [float("nan"), -1.0]) == [None, None]
    assert smoothed.update([8.0, 5.0], [2.0, 1.0]) == [pytest.approx(4.0), pytest.approx(95.0)]
