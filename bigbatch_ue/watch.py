"""Watching a run's gradient noise: which steps measure it, and how ranks share the work."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigbatch_ue.config import Config
from bigbatch_ue.engine import Engine
from bigbatch_ue.flops import Flops
from bigbatch_ue.loader import MicroBatch
from bigbatch_ue.noise import GROUPS, Groups, Moments, Pieces, estimates, parameter_sums, summarise
from bigbatch_ue.plan import BatchPlan
from bigbatch_ue.run import Run

_COST = 100


class Watch:
    """Measures the noise of one step's gradient, over all ranks.

    Args:
        engine: whose ranks take the step.
        batch: images in the step of each row over all ranks (B).
        in_parameters: measure it in the space of the parameters too.

    Attributes:
        found: after `finish`, estimates by space: `delta`, and `parameters` if asked for.
    """

    def __init__(self, engine: Engine, batch: Sequence[int], *, in_parameters: bool) -> None:
        accelerator = engine.accelerator
        self.found: dict[str, Moments] = {}
        self._engine, self._ranks = engine, accelerator.num_processes
        self._rank = accelerator.process_index
        images = torch.tensor(batch, device=accelerator.device)
        self._pieces = Pieces(images)
        self._groups = Groups(images, engine.shape, first=self._rank) if in_parameters else None

    def add(self, gradient: Tensor, micro: MicroBatch) -> None:
        """Count the gradient of a micro-batch in, float32 [p, C, H, W]."""
        count = torch.as_tensor(
            np.bincount(micro.row, minlength=len(gradient)), device=gradient.device
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
        self.found["delta"] = estimates(everywhere(self._pieces.sums(total)))
        if self._groups:
            groups = self._groups
            groups.gradients = everywhere(groups.gradients)
            groups.counts = everywhere(groups.counts)
            rows = range(self._rank, len(groups.batch), self._ranks)
            sums = parameter_sums(self._engine.whole_bank(), groups, rows)
            self.found["parameters"] = estimates(everywhere(sums))


def noise_scale(parts: Sequence[tuple[Run, int]]) -> dict[str, Any]:
    """The noise scale by space, over all steps of runs that train parts of one bank.

    Args:
        parts: each run, and how many generators it trains.
    """
    return {
        space: summarise(*np.concatenate([run.noise(space, rows) for run, rows in parts], axis=2))
        for space in ("delta", "parameters")
    }


def measured_every(config: Config, plan: BatchPlan, flops: Flops) -> int:
    """After how many steps the noise in the space of the parameters is measured; 0: never.

    `auto` is as often as it adds at most a hundredth to the operations of a step. A measurement
    takes each generator forward once and backward `GROUPS` times, spread over the ranks.
    """
    if config.noise.every != "auto":
        return config.noise.every
    bank = len(plan.per_generator) * flops.generator
    step = plan.passes * flops.image / plan.world_size + bank
    measurement = bank * (1 + 2 * GROUPS) / 3 / plan.world_size
    return math.ceil(_COST * measurement / step)
