"""Machines for which a step can be estimated: the GPUs and links of their nodes.

The pace of an H100 was measured, that of the other GPUs is scaled from it. The kernels that take
most of the time are bound by memory (docs/speed.md), so that time goes with the values that layers
hold, their bytes, and the bandwidth of the memory; but no GPU exceeds its peak of operations.
"""

from dataclasses import dataclass
from enum import StrEnum

from bigbatch_ue.benchmark.step_time import Links, Pace
from bigbatch_ue.networks.sizes import NetworkSize, generator_size

MEASURED_SURROGATE = NetworkSize(23_508_032, 34_803_200, 8_174_272_512)
"""ResNet-50 at 224 pixels."""
MEASURED_GENERATOR = generator_size(3, 64, 224)
MEASURED = Pace(image=1.041e-4, micro_batch=5.49e-3, generator=1.469e-2)
"""The pace of an H100 with `MEASURED_SURROGATE`, in bfloat16 and compiled, and with generators like
`MEASURED_GENERATOR`, whose activations are computed twice. It solves three steps of the delta path
in `analysis/examples/scaling/scaling.csv`: B = 1,024 in micro-batches of 64 and of 1,024, and B =
4,096 in micro-batches of 1,024."""
_FORWARD_AND_BACK, _FORWARD_BACK_AND_WEIGHTS = 2, 3
"""Operations of a frozen and of a trained network, in multiples of those of a pass forward."""


class MachineName(StrEnum):
    """A machine that is described here."""

    FRONTIER = "frontier"
    H100 = "h100"
    SUMMIT = "summit"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as its maker rates it.

    Attributes:
        name: short name.
        memory: bytes per second to and from its memory.
        float32: operations per second of products of float32, as TF32 where there is that.
        bf16: operations per second of products of bfloat16; None without such hardware.
    """

    name: str
    memory: float
    float32: float
    bf16: float | None

    def pace(self, surrogate: NetworkSize, generator: NetworkSize, bf16: bool = True) -> Pace:
        """Scale the measured pace to this GPU and to other networks.

        The time of a micro-batch whatever its images is that of starting kernels, and stays.

        Args:
            surrogate: size of the surrogate.
            generator: size of a generator.
            bf16: whether to compute the surrogate in bfloat16, if the hardware does; else float32,
                which has twice the bytes.
        """
        peak = self.bf16 if bf16 else None
        memory = H100.memory / self.memory
        per_image = memory * (1 if peak else 2) * MEASURED.image / MEASURED_SURROGATE.activations
        per_generator = memory * MEASURED.generator / MEASURED_GENERATOR.activations
        image = _FORWARD_AND_BACK * surrogate.operations / (peak or self.float32)
        weights = _FORWARD_BACK_AND_WEIGHTS * generator.operations / self.float32
        return Pace(
            max(image, per_image * surrogate.activations),
            MEASURED.micro_batch,
            max(weights, per_generator * generator.activations),
        )


H100 = Gpu("H100", memory=3.35e12, float32=495e12, bf16=989e12)
"""SXM, 80 GB. NVIDIA, "H100 Tensor Core GPU" data sheet, without sparsity."""
_GCD = Gpu("MI250X GCD", memory=1.6e12, float32=47.9e12, bf16=191.5e12)
"""Half of an MI250X. AMD, "Instinct MI250X" data sheet, with matrix units."""
_V100 = Gpu("V100", memory=0.9e12, float32=15.7e12, bf16=None)
"""SXM2, 16 GB. NVIDIA, "V100 Tensor Core GPU" data sheet. It has no bfloat16 and no TF32."""

_LATENCY = 10e-6
"""Assumed of every message. NCCL counts on 9.6 microseconds for long messages of a ring over a
network (`hwLat` in its src/graph/tuning.cc), and on less inside a node."""


@dataclass(frozen=True)
class Machine:
    """A machine of equal nodes; a rank has one GPU.

    Attributes:
        nodes: number of nodes.
        gpus: GPUs of a node.
        gpu: their kind.
        links: of the GPUs and nodes, as rated, in one direction.
    """

    nodes: int
    gpus: int
    gpu: Gpu
    links: Links


MACHINES = {
    # OLCF, "Frontier User Guide": 8 GCDs with links of 50 to 200 GB/s, of which the slowest count;
    # 4 Slingshot NICs of 25 GB/s. 9,408 nodes at its start in 2022, 9,856 in today's guide.
    MachineName.FRONTIER: Machine(9_408, 8, _GCD, Links(50e9, 100e9, _LATENCY)),
    # NVIDIA, "DGX H100" data sheet: NVLink 4 of 900 GB/s in both directions, 8 ConnectX-7 of
    # 400 Gb/s. NVIDIA announced Eos, of 576 such nodes, in 2022.
    MachineName.H100: Machine(576, 8, H100, Links(450e9, 400e9, _LATENCY)),
    # OLCF, "Summit User Guide" and T. Papatheodore, "Summit Architecture Overview", 2019: two
    # NVLink 2 bricks of 25 GB/s between neighbours; dual-rail EDR InfiniBand of 2 x 12.5 GB/s.
    MachineName.SUMMIT: Machine(4_608, 6, _V100, Links(50e9, 25e9, _LATENCY)),
}
