"""Predictions and accuracy of a classifier on images stored as uint8."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.data.source import Labels, Pixels
from bigbatch_ue.runtime.device import has_bf16


def predict(
    model: nn.Module,
    images: Pixels,
    device: torch.device,
    ranks: Accelerator | None = None,
    batch: int = 256,
) -> Tensor:
    """Return the probability that `model` gives each class, for `images` uint8 [N, C, H, W].

    The batches do not depend on the number of ranks; each is computed by one rank. Leaves `model`
    in evaluation mode.

    Returns:
        float32 [N, classes] on the CPU, in the order of the images, the same on every rank.
    """
    model.eval()
    rank, world = (ranks.process_index, ranks.num_processes) if ranks else (0, 1)
    for buffer in model.buffers() if world > 1 else ():
        broadcast(buffer)
    with torch.no_grad(), autocast(device):
        width = output_width(model, images, device)
        probabilities = torch.zeros(len(images), width, device=device)
        for start in list(range(0, len(images), batch))[rank::world]:
            part = slice(start, start + batch)
            logits = model(to_channels_last(to_float(to_device(images[part], device))))
            probabilities[part] = logits.float().softmax(1)
    return (ranks.reduce(probabilities, "sum") if ranks else probabilities).cpu()


def accuracy(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    device: torch.device,
    ranks: Accelerator | None = None,
) -> float:
    """Return the fraction of all `images` [N, C, H, W] that `model` classifies as their label."""
    predicted = predict(model, images, device, ranks).argmax(1).numpy()
    return float((predicted == labels).mean())


def to_float(images: Tensor) -> Tensor:
    """Return pixels as float32 in [0, 1]: divide uint8 by 255, leave float unchanged."""
    return images if images.is_floating_point() else images.float() / 255


@torch.no_grad()
def output_width(model: nn.Module, images: Pixels, device: torch.device) -> int:
    """Return the number of outputs of `model` for each image; leaves it in evaluation mode."""
    return int(model.to(device).eval()(to_float(to_device(images[:1], device))).shape[1])


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy `array` to `device`."""
    return torch.from_numpy(np.array(array)).to(device)


def to_channels_last(images: Tensor) -> Tensor:
    """Lay out `images` [M, C, H, W] with channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last)


def precision_of_training(device: torch.device) -> str:
    """Return the precision in which networks are trained on `device`: `bf16` or `float32`."""
    return "bf16" if has_bf16(device) else "float32"


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bfloat16 where the hardware multiplies it, else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device))
