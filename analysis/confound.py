"""Batch size or number of steps? Two budgets of the same sweep tell them apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How much of the effect of B at equal epochs is the effect of fewer optimizer steps.

    Attributes:
        dataset: and the rest of what the two curves share, in words.
        batches: int64 [k], effective batches that both budgets have.
        smallest: smallest B compared.
        largest: largest B compared.
        change_epochs: change of accuracy from the smallest to the largest B along each seed's
            straight line, at equal epochs; mean over seeds.
        change_epochs_interval: its 95 % t interval.
        change_steps: the same at equal steps.
        change_steps_interval: its 95 % t interval.
        difference_p: p-value of the paired t-test that the two are equal.
        share: (change_epochs - change_steps) / change_epochs, the part that goes with fewer steps.
        share_interval: its 95 % Fieller interval; None where it is unbounded.
        batch_p: p-value of the partial F-test of B, given steps and seeds, over both budgets.
        steps_p: p-value of the partial F-test of steps, given B and seeds.
        statement: all this in one or two sentences.
    """

    dataset: str
    batches: NDArray[np.int64]
    smallest: int
    largest: int
    change_epochs: float
    change_epochs_interval: tuple[float, float]
    change_steps: float
    change_steps_interval: tuple[float, float]
    difference_p: float
    share: float
    share_interval: tuple[float, float] | None
    batch_p: float
    steps_p: float
    statement: str
