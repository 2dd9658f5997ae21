"""Floating-point operations that a step needs, counted on shapes alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.backbone import build_model
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runtime.memory import _MIB


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


_FLOAT = 4
_STATES = {"adam": 2, "adamw": 2, "lamb": 2, "lars": 1, "sgd": 0}
_SHARDED = {
    "zero1": {"optimizer"},
    "zero2": {"optimizer", "gradients"},
    "zero3": {"optimizer", "gradients", "parameters"},
    "fsdp2": {"optimizer", "gradients", "parameters"},
}


def expected_memory(
    config: Config, channels: int, micro: int, ranks: int, engine: str
) -> dict[str, float]:
    """Expected memory of one rank during a step, in MiB by part.

    The parts are counted, not measured: float32 tensors that live at the same time, no workspace of
    the kernels, no fragmentation. None of them depends on the effective batch.

    Args:
        config: the resolved configuration.
        channels: C of the images.
        micro: images in the largest micro-batch of a rank.
        ranks: number of ranks.
        engine: `single`, `ddp`, `fsdp2` or `zero0` ... `zero3`.
    """
    surrogate, bank, image = weightless(config, channels)
    activations, generator_activations = _activations(surrogate, image), _activations(bank)
    parameters = sum(p.numel() for p in bank.parameters())
    bank_parts = {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": parameters * _STATES[config.optimizer.name],
    }
    sharded = _SHARDED.get(engine, set())
    numbers = {
        f"generators: {name}": count / (ranks if name in sharded else 1)
        for name, count in bank_parts.items()
    }
    numbers["generators: activations"] = generator_activations
    numbers["surrogate: weights"] = sum(p.numel() for p in surrogate.parameters())
    numbers["surrogate: activations"] = activations * micro
    return {name: count * _FLOAT / _MIB for name, count in numbers.items()}


def _activations(module: nn.Module, *inputs: Tensor) -> int:
    """Elements that the leaves of `module` put out in one forward pass."""
    total = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return total
