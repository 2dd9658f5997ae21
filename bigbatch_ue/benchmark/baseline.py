"""The baseline: the same training as in the public code of UC, to compare the speed with.

The surrogate is not frozen, and is computed contiguous and in float32. Each generator is trained on
its own, has one pass per micro-batch, and decodes its images from files again.
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
from bigbatch_ue.batching.sampler import GlobalBatch
from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.data.source import to_hwc
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.training.objective import ClusterwiseLoss


class JpegFiles:
    """Images as JPEG files in memory, decoded at every use.

    Args:
        images: uint8 [N, C, H, W].
        device: of the decoded images.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.files = [_encode(image) for image in images]

    def micro_batch(self, batch: GlobalBatch) -> MicroBatch:
        """Decode all of `batch`."""
        decoded = [np.asarray(Image.open(io.BytesIO(self.files[i]))) for i in batch.index]
        images = torch.from_numpy(np.stack(decoded)).to(self.device)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return MicroBatch(images.contiguous(), batch.generator, batch.views, batch.weight)


def unfreeze(surrogate: nn.Module) -> nn.Module:
    """Give the parameters of the surrogate gradients, and a contiguous layout."""
    return surrogate.to(memory_format=torch.contiguous_format).requires_grad_(True)


def baseline_step(
    accelerator: Accelerator,
    bank: GeneratorBank,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: ClusterwiseLoss,
    files: JpegFiles,
    batch: GlobalBatch,
    micro: int,
    at_most: int | None = None,
) -> int:
    """Take an optimizer step of one generator after the other, on this rank's part of its images.

    Args:
        accelerator: its ranks divide the images among them and add their gradients.
        bank: the generators, which no engine has wrapped.
        optimizers: one for each generator.
        loss: with a surrogate from `unfreeze`.
        files: the images.
        batch: the global batch of the step.
        micro: maximum number of images in a micro-batch.
        at_most: maximum number of micro-batches of this rank, after which it finishes the step of
            the current generator and skips the others; None: no limit.

    Returns:
        Number of images through the surrogate on this rank.
    """
    images = micro_batches = 0
    for index, (generator, optimizer) in enumerate(zip(bank.generators, optimizers, strict=True)):
        if at_most is not None and micro_batches >= at_most:
            break
        left = None if at_most is None else at_most - micro_batches
        for part in _micro_batches(accelerator, batch, index, micro, left):
            delta = bank.perturbation(index).expand_as(bank.noise)
            torch.autograd.backward(loss(delta, files.micro_batch(part)).sum())
            images, micro_batches = images + len(part), micro_batches + 1
        _sum_gradients_over_ranks(accelerator, generator)
        optimizer.step()
        optimizer.zero_grad()
    loss.surrogate.zero_grad()
    return images


def _micro_batches(
    accelerator: Accelerator, batch: GlobalBatch, generator: int, micro: int, at_most: int | None
) -> Iterator[GlobalBatch]:
    """Yield this rank's micro-batches of one generator, or the first `at_most` of them."""
    positions = np.flatnonzero(batch.generator == generator)
    part = even_slice(len(positions), accelerator.num_processes, accelerator.process_index)
    own = positions[part]
    for start in range(0, len(own), micro)[:at_most]:
        yield batch[own[start : start + micro]]


def _sum_gradients_over_ranks(accelerator: Accelerator, generator: nn.Module) -> None:
    if accelerator.num_processes > 1:
        gradients: list[Tensor] = [p.grad for p in generator.parameters() if p.grad is not None]
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def _encode(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(to_hwc(image)).save(file, format="JPEG", quality=90)
    return file.getvalue()
