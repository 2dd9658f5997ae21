"""Watching a run's gradient noise: which steps measure it, and how ranks share the work."""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments, read_moments
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.noise import (
    DeltaNoise,
    ParameterNoise,
    estimate_moments,
    parameter_sums,
    summarise_noise,
)

_COST = 100


class NoiseMonitor:
    """Measures the noise of one step's gradient, over all ranks.

    Args:
        engine: whose ranks take the step.
        batch: images in the step of each row over all ranks (B).
        in_parameters: measure it in the space of the parameters too.

    Attributes:
        found: after `finish`, estimates by space: `delta`, and `parameters` if asked for.
        seconds: that the space of the parameters took in `finish`.
    """

    def __init__(self, engine: Engine, batch: Sequence[int], *, in_parameters: bool) -> None:
        accelerator = engine.accelerator
        self.found: dict[str, Moments] = {}
        self.seconds = 0.0
        self._engine, self._ranks = engine, accelerator.num_processes
        self._rank = accelerator.process_index
        images = torch.tensor(batch, device=accelerator.device)
        self._pieces = DeltaNoise(images)
        self._groups = (
            ParameterNoise(images, engine.shape, first=self._rank) if in_parameters else None
        )

    def add(self, gradient: Tensor, micro: MicroBatch) -> None:
        """Count the gradient of a micro-batch in, float32 [p, C, H, W]."""
        count = torch.as_tensor(
            np.bincount(micro.generator, minlength=len(gradient)), device=gradient.device
        )
        self._pieces.add(gradient, count)
        if self._groups:
            self._groups.add(gradient, count)

    def finish(self, total: Tensor) -> None:
        """Make the estimates, while the parameters are those of the step; a collective call.

        Args:
            total: float32 [p, C, H, W], the sum of the gradients that were added.
        """
        everywhere = self._engine.sum_over_ranks
        self.found["delta"] = estimate_moments(everywhere(self._pieces.sums(total)))
        if self._groups:
            began = time.perf_counter()
            groups = self._groups
            groups.gradients = everywhere(groups.gradients)
            groups.counts = everywhere(groups.counts)
            rows = range(self._rank, len(groups.batch), self._ranks)
            sums = parameter_sums(self._engine.gather_bank(), groups, rows)
            self.found["parameters"] = estimate_moments(everywhere(sums))
            self.seconds = time.perf_counter() - began


def noise_scale(parts: Sequence[tuple[Run, int]]) -> dict[str, Any]:
    """The noise scale by space, over all steps of runs that train parts of one bank.

    Args:
        parts: each run, and how many generators it trains.
    """
    return {
        space: summarise_noise(
            *np.concatenate([read_moments(run.metrics, space, rows) for run, rows in parts], axis=2)
        )
        for space in ("delta", "parameters")
    }


class NoiseSchedule:
    """Which steps measure the noise in the space of the parameters.

    `auto` measures in the first step, then as rarely as makes that cost at most a hundredth of the
    time, by what it took in the first step and what the second took without it. Operations would
    not tell: a generator's take several times as long as a surrogate's.

    Args:
        every: steps from one measurement to the next; 0: never.
        first: the step that the run goes on from.
    """

    def __init__(self, every: int | Literal["auto"], first: int) -> None:
        self._period = None if every == "auto" else every
        self._first = first if every == "auto" else 0
        self._measurement = 0.0

    def due(self, step: int) -> bool:
        """Whether `step` is to measure it."""
        if self._period is None:
            return step == self._first
        return self._period > 0 and (step - self._first) % self._period == 0

    def took(self, step: float, measurement: float, engine: Engine) -> None:
        """Count a step in, in seconds; may be a collective call."""
        if self._period is None and measurement > 0:
            self._measurement = measurement
        elif self._period is None:
            seconds = torch.tensor([self._measurement, step], device=engine.accelerator.device)
            measurement, step = engine.sum_over_ranks(seconds).tolist()
            self._period = math.ceil(_COST * measurement / step)
