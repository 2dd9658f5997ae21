"""Two ways to the exact gradient of one effective batch, equal up to rounding.

`delta`: a perturbation is shared by its whole effective batch, so dL/d(delta) is summed over
micro-batches on a detached leaf, and the generators get one backward pass a step whatever B is.
`engine`: ordinary accumulation, with a pass of the generators for every micro-batch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.micro_batch import MicroBatchTooLargeError, works_in_memory
from bigbatch_ue.runtime.accelerator import min_over_ranks
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.noise_monitor import NoiseMonitor


class NonFiniteError(Exception):
    """A loss or gradient of a step is NaN or infinite; every rank raises it.

    Attributes:
        rows: the generators whose it is.
    """

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows
        super().__init__(f"loss or gradient of generator(s) {rows} is not finite")


Loss = Callable[[Tensor, MicroBatch], Tensor]
"""Perturbations [p, C, H, W] and a micro-batch of m to weighted losses [m]."""


def delta_step(
    engine: Engine,
    loss: Loss,
    micros: Iterator[MicroBatch],
    lr: float,
    watch: NoiseMonitor | None = None,
) -> Tensor:
    """One optimizer step over this rank's `micros`, generators differentiated once.

    `watch`, if given, measures the noise of the gradient on the way.

    Returns:
        The step's loss of each generator, over all ranks, float32 [p].

    Raises:
        MicroBatchError: on every rank, when a micro-batch exceeds the memory of one; nothing is
            changed, so the step can be taken again in smaller ones.
        NonFiniteError: on every rank; nothing is changed.
    """
    with engine.accumulating(lr):
        delta = engine.perturbations()
        leaf = delta.detach().float().requires_grad_()
        gradient, per_row = torch.zeros_like(leaf), leaf.new_zeros(len(leaf))

        def accumulate() -> None:
            for micro in micros:
                if len(micro) > 0:
                    losses = loss(leaf, micro)
                    part = torch.autograd.grad(losses.sum(), leaf)[0]
                    gradient.add_(part)
                    _add_by_row(per_row, losses, micro)
                    if watch:
                        watch.add(part, micro)

        if not min_over_ranks(engine.accelerator, works_in_memory(accumulate)):
            raise MicroBatchTooLargeError
        per_row[~gradient.flatten(1).isfinite().all(dim=1)] = torch.nan
        losses = engine.sum_over_ranks(per_row)
        _check_finite(losses)
        if watch:
            watch.finish(gradient)
        engine.backward((delta * gradient).sum())
    return losses


def engine_step(engine: Engine, loss: Loss, micros: Iterator[MicroBatch], lr: float) -> Tensor:
    """One optimizer step over this rank's `micros`, accumulated by the engine itself.

    Returns:
        The step's loss of each generator, over all ranks, float32 [p].

    Raises:
        NonFiniteError: on every rank; a loss was not finite, and the step has been taken.
    """
    per_row: Tensor | None = None
    for micro in micros:
        with engine.accumulating(lr):
            delta = engine.perturbations()
            if per_row is None:
                per_row = delta.new_zeros(len(delta))
            # an empty share still takes part in the engine's collectives
            losses = loss(delta, micro) if len(micro) > 0 else delta.sum() * delta.new_zeros(1)
            engine.backward(losses.sum())
            if len(micro) > 0:
                _add_by_row(per_row, losses, micro)
    assert per_row is not None, "a plan has at least one micro-batch"
    totals = engine.sum_over_ranks(per_row)
    _check_finite(totals)
    return totals


def _check_finite(losses: Tensor) -> None:
    """Raise a `NonFiniteError` unless all `losses` [p], the same on every rank, are finite."""
    if not losses.isfinite().all():
        rows = torch.nonzero(~losses.isfinite()).flatten().tolist()
        raise NonFiniteError(rows)


def _add_by_row(per_row: Tensor, losses: Tensor, micro: MicroBatch) -> None:
    per_row.index_add_(0, torch.as_tensor(micro.generator, device=losses.device), losses.detach())
