"""The same work the way the public UC code does it: what the program's speed is measured against.

The surrogate is not frozen, contiguous and float32; each generator is trained on its own, passes
once for every micro-batch, and decodes its images from files again.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.plan import even_slice
from bigbatch_ue.batching.sampler import GlobalBatch
from bigbatch_ue.data.source import to_hwc
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.training.objective import ClusterwiseLoss


class Files:
    """Images as JPEG files in memory, decoded each time they are used.

    Args:
        images: uint8 [N, C, H, W].
        device: where the decoded images go.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.files = [_encoded(image) for image in images]

    def micro_batch(self, batch: GlobalBatch) -> MicroBatch:
        """All of `batch`, decoded."""
        decoded = [np.asarray(Image.open(io.BytesIO(self.files[i]))) for i in batch.index]
        images = torch.from_numpy(np.stack(decoded)).to(self.device)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return MicroBatch(images.contiguous(), batch.generator, batch.views, batch.weight)


def unfrozen(surrogate: nn.Module) -> nn.Module:
    """The surrogate in evaluation mode with gradients of its own, contiguous, float32."""
    return surrogate.to(memory_format=torch.contiguous_format).requires_grad_(True)


def baseline_step(
    accelerator: Accelerator,
    bank: GeneratorBank,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: ClusterwiseLoss,
    files: Files,
    batch: GlobalBatch,
    micro: int,
    at_most: int | None = None,
) -> int:
    """One optimizer step of each generator in turn, on this rank's share of its images.

    Args:
        accelerator: whose ranks share the images and add up their gradients.
        bank: the generators, not wrapped.
        optimizers: one for each generator.
        loss: with an `unfrozen` surrogate.
        files: where images are decoded from.
        batch: of the step.
        micro: most images in one pass.
        at_most: this rank stops after so many micro-batches, at the end of a generator's step.

    Returns:
        Images through the surrogate on this rank.
    """
    done = passes = 0
    for row, (generator, optimizer) in enumerate(zip(bank.generators, optimizers, strict=True)):
        if at_most is not None and passes >= at_most:
            break
        left = None if at_most is None else at_most - passes
        for images in _micro_batches(accelerator, batch, row, micro, left):
            delta = bank.perturbation(row).expand_as(bank.noise)
            torch.autograd.backward(loss(delta, files.micro_batch(images)).sum())
            done, passes = done + len(images), passes + 1
        _add_over_ranks(accelerator, generator)
        optimizer.step()
        optimizer.zero_grad()
    loss.surrogate.zero_grad()
    return done


def _micro_batches(
    accelerator: Accelerator, batch: GlobalBatch, row: int, micro: int, left: int | None
) -> Iterator[GlobalBatch]:
    own = np.flatnonzero(batch.generator == row)
    share = own[even_slice(len(own), accelerator.num_processes, accelerator.process_index)]
    for start in range(0, len(share), micro)[:left]:
        yield batch[share[start : start + micro]]


def _add_over_ranks(accelerator: Accelerator, generator: nn.Module) -> None:
    if accelerator.num_processes > 1:
        gradients: list[Tensor] = [p.grad for p in generator.parameters() if p.grad is not None]
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def _encoded(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(to_hwc(image)).save(file, format="JPEG", quality=90)
    return file.getvalue()
