"""The memory of an optimizer step, counted from shapes alone."""

import math
from dataclasses import dataclass

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.sizes import NetworkSize, generator_size, generators_held, resnet_size
from bigbatch_ue.networks.spec import surrogate_spec
from bigbatch_ue.runtime.host import MIB
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
    surrogate = surrogate_size(config, channels)
    generator = generator_size(channels, config.generator.width, config.data.size)
    parameters = generator.parameters * config.clusters.generators
    held = generators_held(config.clusters.generators, generator)
    states = _STATES_PER_PARAMETER[config.optimizer.name]

    def mib(part: str, elements: int) -> float:
        shards = ranks if part in _SHARDED.get(engine, ()) else 1
        return elements / shards * _FLOAT32 / MIB

    return MemoryNeeds(
        generator_parameters=mib("parameters", parameters),
        generator_gradients=mib("gradients", parameters),
        optimizer_state=mib("optimizer", parameters * states),
        generator_activations=mib("activations", held * generator.activations),
        surrogate_weights=mib("weights", surrogate.parameters),
        surrogate_activations=mib("activations", micro * surrogate.activations),
    )


def surrogate_size(config: Config, channels: int) -> NetworkSize:
    """Count the surrogate of `config` for images of `channels`, without torch if it is a ResNet."""
    spec = surrogate_spec(config.surrogate, channels, config.data.size)
    size = resnet_size(spec)
    if size is None:
        from bigbatch_ue.training.requirements import count_surrogate  # imports torch and timm

        size = count_surrogate(config, channels)
    return size
