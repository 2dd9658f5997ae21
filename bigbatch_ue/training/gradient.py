"""Two paths to the exact gradient of one effective batch, equal up to rounding.

`delta`: a perturbation is shared by its whole effective batch. dL/d(delta) is therefore summed over
micro-batches on a detached leaf, and the generators get one backward pass per step, whatever B is
(docs/design.md, invariant 3).
`engine`: ordinary accumulation, with a pass of the generators for every micro-batch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.micro_batch import MicroBatchTooLargeError, works_in_memory
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.noise_monitor import NoiseMonitor

Loss = Callable[[Tensor, MicroBatch], Tensor]
"""Perturbations [p, C, H, W] and a micro-batch of m images to weighted losses [m]."""


class NonFiniteError(Exception):
    """A loss or gradient of a step is NaN or infinite; every rank raises it.

    Attributes:
        generators: indices of the generators with a non-finite loss or gradient.
    """

    def __init__(self, generators: list[int]) -> None:
        self.generators = generators
        where = f"{counted(len(generators), 'generator')}: {generators}"
        super().__init__(f"loss or gradient is not finite in {where}")


def delta_step(
    engine: Engine,
    loss: Loss,
    micros: Iterator[MicroBatch],
    lr: float,
    exchange: StepExchange,
    monitor: NoiseMonitor | None = None,
) -> Tensor:
    """Take one optimizer step over this rank's `micros`; differentiate the generators once.

    Args:
        engine: the generators and their optimizer.
        loss: weighted losses.
        micros: this rank's micro-batches.
        lr: learning rate.
        exchange: reduces the losses, and all else that the ranks tell one another.
        monitor: measures the noise of the gradient on the way.

    Returns:
        The step's loss of each generator, over all ranks, float32 [p].

    Raises:
        MicroBatchTooLargeError: on every rank, if a micro-batch exceeds the memory of one. Nothing
            has changed, so the step can be repeated in smaller micro-batches.
        NonFiniteError: on every rank; nothing has changed.
    """
    with engine.accumulating(lr):
        delta = engine.perturbations()
        leaf = delta.detach().float().requires_grad_()
        gradient, own_losses = torch.zeros_like(leaf), leaf.new_zeros(len(leaf))

        def accumulate() -> None:
            for micro in micros:
                if len(micro) > 0:
                    losses = loss(leaf, micro)
                    part = torch.autograd.grad(losses.sum(), leaf)[0]
                    gradient.add_(part)
                    _add_by_generator(own_losses, losses, micro)
                    if monitor:
                        monitor.add(part, micro)

        in_memory = works_in_memory(accumulate)
        own_losses[~gradient.flatten(1).isfinite().all(dim=1)] = torch.nan
        own_noise = monitor.sums(gradient) if monitor else None
        losses, noise = exchange.reduce(own_losses, own_noise, in_memory=in_memory)
        if not exchange.in_memory:
            raise MicroBatchTooLargeError
        _check_finite(losses)
        if monitor and noise is not None:
            monitor.finish(noise)
        engine.backward((delta * gradient).sum())
    return losses


def engine_step(
    engine: Engine, loss: Loss, micros: Iterator[MicroBatch], lr: float, exchange: StepExchange
) -> Tensor:
    """Take one optimizer step over this rank's `micros`, accumulated by the engine itself.

    Returns:
        The step's loss of each generator, over all ranks, float32 [p].

    Raises:
        NonFiniteError: on every rank; a loss was not finite, and the step has been taken.
    """
    own_losses: Tensor | None = None
    for micro in micros:
        with engine.accumulating(lr):
            delta = engine.perturbations()
            if own_losses is None:
                own_losses = delta.new_zeros(len(delta))
            # An empty micro-batch still takes part in the engine's collectives.
            own = loss(delta, micro) if len(micro) > 0 else delta.sum() * delta.new_zeros(1)
            engine.backward(own.sum())
            if len(micro) > 0:
                _add_by_generator(own_losses, own, micro)
    assert own_losses is not None, "a plan has at least one micro-batch"
    losses, _ = exchange.reduce(own_losses, None, in_memory=True)
    _check_finite(losses)
    return losses


def _check_finite(losses: Tensor) -> None:
    """Raise a `NonFiniteError` unless all `losses` [p], the same on every rank, are finite."""
    if not losses.isfinite().all():
        raise NonFiniteError(torch.nonzero(~losses.isfinite()).flatten().tolist())


def _add_by_generator(totals: Tensor, losses: Tensor, micro: MicroBatch) -> None:
    index = torch.as_tensor(micro.generator, device=losses.device)
    totals.index_add_(0, index, losses.detach())
