"""The gradient noise scale while a run trains, from the moments of its steps."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SmoothedNoiseScale:
    """The noise scale of each generator during training: a ratio of exponential moving averages.

    tr(Sigma) and |G|^2 are averaged separately with the same weights, decay^age. Their sum, which
    would correct the start, cancels in the ratio. At a decay of 0.9 the variance is that of a mean
    of 19 steps, (1 + 0.9) / (1 - 0.9), and the trend of a run of 60 steps is still visible.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self._sums: NDArray[np.float64] = np.zeros((2, 1))

    def update(self, trace: Sequence[float], signal: Sequence[float]) -> list[float | None]:
        """Add the estimates of one step, [p] each, NaN where there is none.

        Returns:
            The scale of each generator in images. None before any estimate, and where no signal is
            visible.
        """
        sums = self.decay * self._sums + np.array([trace, signal], dtype=np.float64)
        self._sums = np.where(np.isnan(sums).any(axis=0), self._sums, sums)
        return [float(t / s) if s > 0 else None for t, s in self._sums.T]


def smooth_noise_scale(
    trace: NDArray[np.float64], signal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Smooth the noise scale of each generator.

    Args:
        trace: [T, p], estimates of tr(Sigma) in the order of steps, NaN where there is none.
        signal: [T, p], estimates of |G|^2.

    Returns:
        [T, p] in images; NaN in a step without estimate, and where no signal is visible.
    """
    smoothed = SmoothedNoiseScale()
    steps = [smoothed.update(*step) for step in zip(trace.tolist(), signal.tolist(), strict=True)]
    scales = np.array(steps, dtype=np.float64).reshape(trace.shape)
    return np.where(np.isfinite(trace), scales, np.nan)
