"""Floating-point operations that a step needs, counted on shapes alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.backbone import build_model
from bigbatch_ue.networks.generator import GeneratorBank


@dataclass(frozen=True)
class Flops:
    """What is needed at least; a multiplication and an addition are two.

    Attributes:
        image: one image forward through the surrogate, and its gradient back to the pixels.
        generator: one generator forward and backward.
    """

    image: int
    generator: int


def weightless(config: Config, channels: int) -> tuple[nn.Module, GeneratorBank, Tensor]:
    """Surrogate in evaluation mode, frozen, generator bank and one image, on the meta device."""
    size = config.data.size
    with torch.device("meta"):
        surrogate = build_model(
            config.surrogate.model,
            channels=channels,
            classes=0,
            size=size,
            args=config.surrogate.args,
            stem=config.surrogate.stem,
        )
        bank = GeneratorBank(config.clusters.count, channels, size, config.generator, config.seed)
        image = torch.empty(1, channels, size, size)
    return surrogate.eval().requires_grad_(False), bank, image


def count_flops(config: Config, channels: int) -> Flops:
    """The operations of `config` on images of `channels`."""
    surrogate, bank, image = weightless(config, channels)
    image.requires_grad_()
    with FlopCounterMode(display=False) as of_image:
        torch.autograd.backward(surrogate(image).sum())
    with FlopCounterMode(display=False) as of_bank:
        torch.autograd.backward(bank().sum())
    return Flops(of_image.get_total_flops(), of_bank.get_total_flops() // config.clusters.count)
