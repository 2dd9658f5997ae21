"""Predictions of a classifier, and its accuracy, on images kept as uint8."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.data.source import Labels, Pixels


def predict(
    model: nn.Module,
    images: Pixels,
    device: torch.device,
    ranks: Accelerator | None = None,
    batch: int = 256,
) -> Tensor:
    """The probability that `model` gives each class, for `images` uint8 [N, C, H, W].

    Batches are cut in one way, whatever the ranks, and each is done by one of them. Leaves `model`
    in evaluation mode.

    Returns:
        float32 [N, classes] on the CPU, in the order of the images, the same on every rank.
    """
    model.eval()
    rank, world = (ranks.process_index, ranks.num_processes) if ranks else (0, 1)
    for buffer in model.buffers() if world > 1 else ():
        broadcast(buffer)
    with torch.no_grad(), autocast(device):
        whole = torch.zeros(len(images), output_width(model, images, device), device=device)
        for start in list(range(0, len(images), batch))[rank::world]:
            part = slice(start, start + batch)
            logits = model(to_channels_last(to_float(to_device(images[part], device))))
            whole[part] = logits.float().softmax(1)
    return whole.cpu() if ranks is None else ranks.reduce(whole, "sum").cpu()


def accuracy(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    device: torch.device,
    ranks: Accelerator | None = None,
) -> float:
    """The fraction of all `images` [N, C, H, W] that `model` gives their label, each once."""
    from torchmetrics.classification import MulticlassAccuracy  # a second to import

    found, expected = predict(model, images, device, ranks), torch.from_numpy(np.array(labels))
    metric = MulticlassAccuracy(num_classes=found.shape[1], average="micro")
    return float(metric(found.argmax(1), expected))


def to_float(images: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: uint8 is divided by 255, float is left alone."""
    return images if images.is_floating_point() else images.float() / 255


@torch.no_grad()
def output_width(model: nn.Module, images: Pixels, device: torch.device) -> int:
    """How many values `model`, in evaluation mode from here on, gives for each image."""
    return int(model.to(device).eval()(to_float(to_device(images[:1], device))).shape[1])


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of `array` on `device`."""
    return torch.from_numpy(np.array(array)).to(device)


def to_channels_last(images: Tensor) -> Tensor:
    """Lay out `images` [M, C, H, W] with channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on CUDA; float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
