"""Operations and memory of an optimizer step, counted from shapes alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.surrogate import untrained_surrogate
from bigbatch_ue.runtime.memory import MIB
from bigbatch_ue.runtime.ranks import EngineName

_FLOAT32 = 4
_STATES_PER_PARAMETER = {"adam": 2, "adamw": 2, "lamb": 2, "lars": 1, "sgd": 0}
_SHARDED = {
    EngineName.ZERO1: {"optimizer"},
    EngineName.ZERO2: {"optimizer", "gradients"},
    EngineName.ZERO3: {"optimizer", "gradients", "parameters"},
    EngineName.FSDP2: {"optimizer", "gradients", "parameters"},
}


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


@dataclass(frozen=True)
class MemoryNeeds:
    """The expected memory of one rank during an optimizer step, by part, in MiB."""

    generator_parameters: float
    generator_gradients: float
    optimizer_state: float
    generator_activations: float
    surrogate_weights: float
    surrogate_activations: float

    @property
    def total(self) -> float:
        """Sum of all parts in MiB."""
        return math.fsum(vars(self).values())


def expected_memory(
    config: Config, channels: int, micro: int, ranks: int, engine: EngineName
) -> MemoryNeeds:
    """Count the memory that one rank needs during a step.

    The parts are counted, not measured: float32 tensors that live at the same time, without
    workspaces of kernels and without fragmentation. None depends on the effective batch.

    Args:
        config: the resolved configuration.
        channels: C of the images.
        micro: images in the largest micro-batch of a rank.
        ranks: number of ranks.
        engine: kind of engine, which decides what is sharded.
    """
    surrogate, bank, image = _build_on_meta(config, channels)
    parameters = sum(p.numel() for p in bank.parameters())
    states = _STATES_PER_PARAMETER[config.optimizer.name]

    def mib(part: str, elements: int) -> float:
        shards = ranks if part in _SHARDED.get(engine, ()) else 1
        return elements / shards * _FLOAT32 / MIB

    return MemoryNeeds(
        generator_parameters=mib("parameters", parameters),
        generator_gradients=mib("gradients", parameters),
        optimizer_state=mib("optimizer", parameters * states),
        generator_activations=mib("activations", _activations(bank.generators[0], bank.noise[:1])),
        surrogate_weights=mib("weights", sum(p.numel() for p in surrogate.parameters())),
        surrogate_activations=mib("activations", micro * _activations(surrogate, image)),
    )


def _activations(module: nn.Module, *inputs: Tensor) -> int:
    """Count the elements of the outputs of all leaves of `module` in one forward pass."""
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
