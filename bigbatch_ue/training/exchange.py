"""What ranks tell one another in each step, in one small reduction beside that of the gradient."""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.noise import count_precision


class Action(IntEnum):
    """The action after a step; ranks agree on the largest."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


class Sums(NamedTuple):
    """Sums over ranks.

    Attributes:
        losses: loss of each generator, float32 [p].
        noise: sums for `estimate_moments` [p, 4]; None if no rank was to measure.
    """

    losses: Tensor
    noise: Tensor | None


class StepExchange:
    """The exchange between ranks in one step: losses, noise, memory, and the action after it.

    Args:
        engine: reduces over its ranks.
        wish: returns what this rank wants to do after the step. It is asked when the losses are
            known, so that a signal is heard in this step, or in the next one if it comes later.

    Attributes:
        action: what the ranks do after the step, once they have reduced.
        in_memory: whether the step's micro-batches fitted into the memory of every rank.
    """

    def __init__(
        self, engine: Engine, wish: Callable[[], Action] = lambda: Action.CONTINUE
    ) -> None:
        self._engine, self._wish = engine, wish
        self.action, self.in_memory = Action.CONTINUE, True

    def reduce(self, losses: Tensor, noise: Tensor | None, *, in_memory: bool) -> Sums:
        """Sum over ranks, and learn what the others wish and whether they had memory.

        A collective call; all ranks give tensors of the same shapes.

        Args:
            losses: this rank's part of each generator's loss [p].
            noise: this rank's sums [p, 4], if the noise is measured.
            in_memory: whether this rank's micro-batches fitted into its memory.
        """
        own = losses.new_zeros(1 + len(Action), dtype=count_precision(losses.device))
        own[0] = not in_memory
        own[1 + self._wish()] = 1
        parts = [own, losses, *([] if noise is None else [noise.flatten()])]
        total = self._engine.sum_over_ranks(torch.cat([part.to(own.dtype) for part in parts]))
        flags, losses_sum, noise_sum = total.tensor_split([len(own), len(own) + len(losses)])
        without_memory, *wishes = flags.tolist()
        self.in_memory = without_memory == 0
        self.action = max(action for action in Action if wishes[action])
        summed = None if noise is None else noise_sum.reshape(noise.shape)
        return Sums(losses_sum.to(losses.dtype), summed)
