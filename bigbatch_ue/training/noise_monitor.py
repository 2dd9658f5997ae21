"""The monitor of a run's gradient noise: steps that measure it, and the division among ranks."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import SPACES, Moments, read_moments
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.noise import (
    DeltaNoise,
    PieceNoise,
    estimate_moments,
    parameter_sums,
    summarise_noise,
)

_COST = 100
"""A measurement may take at most this fraction, 1 / _COST, of the time."""


class NoiseMonitor:
    """The noise of one step's gradient, measured over all ranks.

    Args:
        engine: the engine that takes the step.
        batch: B: images of each generator in the step, over all ranks.
        in_parameters: also measure in the space of the parameters.
        pieces: the piece of each micro-batch (`StepPlan.piece_slices`), where the estimates must
            not depend on the decomposition; empty where micro-batches themselves are the pieces.

    Attributes:
        moments: after `finish`, the estimates by space: `delta`, and `parameters` if requested.
        seconds: time that `finish` took in the space of the parameters.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Sequence[int],
        *,
        in_parameters: bool,
        pieces: Sequence[int] = (),
    ) -> None:
        accelerator = engine.accelerator
        self.moments: dict[str, Moments] = {}
        self.seconds = 0.0
        self._engine, self._ranks = engine, accelerator.num_processes
        self._rank = accelerator.process_index
        images = torch.tensor(batch, device=accelerator.device)
        self._delta = DeltaNoise(images)
        self._fixed = deque(pieces)
        self._in_parameters, self._in_fixed_pieces = in_parameters, bool(pieces)
        self._pieces = (
            PieceNoise(images, engine.shape, first=self._rank) if in_parameters or pieces else None
        )

    def add(self, gradient: Tensor, micro: MicroBatch) -> None:
        """Add the gradient of one micro-batch, float32 [p, C, H, W]."""
        count = torch.as_tensor(
            np.bincount(micro.generator, minlength=len(gradient)), device=gradient.device
        )
        self._delta.add(gradient, count)
        if self._pieces:
            self._pieces.add(gradient, count, self._fixed.popleft() if self._fixed else None)

    def sums(self, total: Tensor) -> Tensor:
        """Return this rank's sums [p, 4], to reduce over ranks for `finish`.

        Args:
            total: float32 [p, C, H, W], the sum of the gradients that were added.
        """
        return self._delta.sums(total)

    def finish(self, sums: Tensor) -> None:
        """Compute the estimates before the parameters change; may be a collective call.

        Args:
            sums: [p, 4], those of all ranks.
        """
        reduce, began = self._engine.sum_over_ranks, time.perf_counter()
        noise = self._pieces
        if noise:
            noise.gradients, noise.counts = reduce(noise.gradients), reduce(noise.counts)
        if noise and self._in_fixed_pieces:
            self.moments["delta"] = estimate_moments(noise.delta_sums())
        else:
            self.moments["delta"] = estimate_moments(sums)
        if noise and self._in_parameters:
            generators = range(self._rank, len(noise.batch), self._ranks)
            sums = parameter_sums(self._engine.gather_bank(), noise, generators)
            self.moments["parameters"] = estimate_moments(reduce(sums))
            self.seconds = time.perf_counter() - began


def noise_scale(parts: Sequence[tuple[Run, int]]) -> dict[str, Any]:
    """Summarise the noise scale by space, over all steps of runs that train parts of one bank.

    Args:
        parts: each run, and its number of generators.
    """
    scales = {}
    for space in SPACES:
        moments = [read_moments(run.metrics, space, count) for run, count in parts]
        scales[space] = summarise_noise(*np.concatenate(moments, axis=2))
    return scales


class NoiseSchedule:
    """The steps that measure the noise in the space of the parameters.

    `auto` measures in the first step, then so rarely that it costs at most a hundredth of the time.
    It compares the time of the first measurement with that of the second step, which has none.
    Counting operations would mislead: those of a generator take several times as long as those of a
    surrogate.

    Args:
        every: steps from one measurement to the next; 0: never.
        first: first step of this process.
    """

    def __init__(self, every: int | Literal["auto"], first: int) -> None:
        self._period = None if every == "auto" else every
        self._first = first if every == "auto" else 0
        self._measurement = 0.0

    def due(self, step: int) -> bool:
        """Return whether to measure in `step`."""
        if self._period is None:
            return step == self._first
        return self._period > 0 and (step - self._first) % self._period == 0

    def record(self, step: float, measurement: float, engine: Engine) -> None:
        """Record the seconds of a step and its measurement; may be a collective call."""
        if self._period is None and measurement > 0:
            self._measurement = measurement
        elif self._period is None:
            seconds = torch.tensor([self._measurement, step], device=engine.accelerator.device)
            measurement, step = engine.sum_over_ranks(seconds).tolist()
            self._period = math.ceil(_COST * measurement / step)
