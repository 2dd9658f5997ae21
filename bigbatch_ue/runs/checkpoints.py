"""Checkpoints: training states that a run can be resumed from."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A state that training can go on from.

    Attributes:
        step: optimizer steps done, skipped ones included.
        state: parameters and optimizer state by name (`Engine.state`); empty at step 0.
        skipped: steps that were skipped.
    """

    step: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    skipped: int = 0


NEW = Checkpoint()
