"""Operations of an optimizer step, and sizes of networks, counted on the meta device."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.sizes import NetworkSize
from bigbatch_ue.networks.surrogate import untrained_surrogate


@dataclass(frozen=True)
class Flops:
    """Floating-point operations that a step needs at least; a multiply-add counts as two.

    Attributes:
        image: one image forward through the surrogate, and its gradient back to the pixels.
        generator: one generator forward and backward.
    """

    image: int
    generator: int


def _build_on_meta(config: Config, channels: int) -> tuple[nn.Module, GeneratorBank, Tensor]:
    """Build the frozen surrogate, the generator bank and one image on the meta device."""
    size = config.data.size
    with torch.device("meta"):
        surrogate = untrained_surrogate(config.surrogate, channels, size)
        bank = GeneratorBank(
            config.clusters.generators, channels, size, config.generator, config.seed
        )
        image = torch.empty(1, channels, size, size)
    return surrogate.eval().requires_grad_(False), bank, image


def count_flops(config: Config, channels: int) -> Flops:
    """Count the operations of `config` on images of `channels`."""
    surrogate, bank, image = _build_on_meta(config, channels)
    image.requires_grad_()
    with FlopCounterMode(display=False) as image_flops:
        torch.autograd.backward(surrogate(image).sum())
    with FlopCounterMode(display=False) as bank_flops:
        torch.autograd.backward(bank.perturbation(0).sum())
    return Flops(image_flops.get_total_flops(), bank_flops.get_total_flops())


def count_surrogate(config: Config, channels: int) -> NetworkSize:
    """Count the size of the surrogate for images of `channels`."""
    surrogate, _, image = _build_on_meta(config, channels)
    return measure_size(surrogate, image)


def measure_size(module: nn.Module, *inputs: Tensor) -> NetworkSize:
    """Count the size of `module`; its activations are the outputs of all its leaves."""
    activations = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module(*inputs)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() for p in module.parameters())
    return NetworkSize(parameters, activations, flops.get_total_flops())
