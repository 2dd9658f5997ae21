"""The expected time of an optimizer step on many nodes, from the pace of one rank and the links.

The delta path computes, then communicates once:

    step = images x image + micro-batches x micro_batch + generators x generator
           + reduction of the gradient + reduction of the bookkeeping

The fullest rank decides. Every rank of a rank group computes all generators of the group, and a
part of its images. Nothing overlaps, which DDP does better: it sends parts of the gradient while
others are computed.

A reduction passes through the k ranks of a group: an all-reduce twice, as a reduce-scatter and an
all-gather. In a pass, a rank sends (k - 1) / k of the payload, the least that there is (Patarasuk
and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009). On n nodes
of g GPUs, (g - 1) / g of the payload goes to the same node. The rest, (n - 1) / n of 1 / g, leaves
it; g GPUs share the links of the node, through which goes (n - 1) / n. With latency a, in seconds
per message, and bandwidths in bytes per second (the alpha-beta model of Thakur, Rabenseifner and
Gropp, "Optimization of collective communication operations in MPICH", 2005, who need log2 k
messages a pass):

    pass = a x (ceil(log2 g) + ceil(log2 n))
           + payload x ((g - 1) / g / inside + (n - 1) / n / outside)

Congestion, stragglers and the reading of images are not in the model. It needs no torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.runtime.ranks import EngineName

PASSES = {
    EngineName.SINGLE: 0,
    EngineName.DDP: 2,
    EngineName.ZERO0: 2,
    EngineName.ZERO1: 3,
    EngineName.ZERO2: 3,
    EngineName.ZERO3: 2,
    EngineName.FSDP2: 3,
}
"""Passes of a payload as large as the parameters through all ranks in a step of the delta path;
`tests/distributed/test_traffic.py` counts them."""
_ALL_REDUCE = 2
_FLOAT32, _FLOAT64 = 4, 8
_FLAGS, _SUMS = 4, 5
"""Numbers that the ranks exchange beside the gradient: of each rank, and of each generator."""


@dataclass(frozen=True)
class Pace:
    """Seconds that one rank computes.

    Attributes:
        image: of an image forward through the surrogate and back.
        micro_batch: of a micro-batch, whatever its images.
        generator: of a generator forward and backward, and its update.
    """

    image: float
    micro_batch: float
    generator: float


@dataclass(frozen=True)
class Links:
    """What connects ranks.

    Attributes:
        inside: bytes per second that a rank sends to another of its node.
        outside: bytes per second that a node sends to others.
        latency: seconds of a message.
    """

    inside: float
    outside: float
    latency: float


@dataclass(frozen=True)
class StepWork:
    """The work of an optimizer step.

    Attributes:
        per_generator: images of each generator.
        parameters: of one generator.
        micro: maximum number of images in a micro-batch.
    """

    per_generator: tuple[int, ...]
    parameters: int
    micro: int

    @property
    def images(self) -> int:
        """Images through the surrogate, over all ranks."""
        return sum(self.per_generator)

    def fullest(self, groups: int) -> tuple[int, int]:
        """Return the most images and the most generators of any of `groups` rank groups."""
        slices = [even_slice(len(self.per_generator), groups, part) for part in range(groups)]
        parts = [self.per_generator[part] for part in slices]
        return max(map(sum, parts)), max(map(len, parts))


@dataclass(frozen=True)
class StepTime:
    """The parts of a step, in seconds."""

    surrogate: float
    generators: float
    gradient: float
    bookkeeping: float

    @property
    def total(self) -> float:
        """All parts."""
        return math.fsum(vars(self).values())

    @property
    def communication(self) -> float:
        """The seconds that ranks wait for one another."""
        return self.gradient + self.bookkeeping

    def is_held_by_communication(self) -> bool:
        """Whether communication takes more than a tenth of the step."""
        return self.communication > self.total / 10

    def is_held_by_generators(self) -> bool:
        """Whether the generators, which every rank of a group repeats, take more than half."""
        return self.generators > self.total / 2


def fewest_nodes(groups: int, gpus: int) -> int:
    """Return the fewest nodes of `gpus` GPUs that can be divided into `groups` rank groups."""
    return groups // math.gcd(groups, gpus)


@dataclass(frozen=True)
class StepModel:
    """The time of a step against the number of nodes.

    Attributes:
        work: of the step.
        pace: of a rank.
        links: between ranks.
        gpus: ranks of a node.
        groups: rank groups (`compute.cluster_groups`).
        engine: decides how often the gradient passes through the ranks.
    """

    work: StepWork
    pace: Pace
    links: Links
    gpus: int
    groups: int = 1
    engine: EngineName = EngineName.DDP

    @cached_property
    def _group(self) -> tuple[int, int]:
        return self.work.fullest(self.groups)

    def at(self, nodes: int) -> StepTime:
        """Estimate the step on `nodes` nodes, a multiple of `fewest_nodes`."""
        ranks = nodes * self.gpus // self.groups
        images, generators = self._group
        numbers = _FLAGS + _SUMS * generators
        return StepTime(
            *self._computation(images, generators, ranks),
            gradient=self._reduction(self._gradient, PASSES[self.engine], ranks),
            bookkeeping=self._reduction(_FLOAT64 * numbers, _ALL_REDUCE, ranks),
        )

    def efficiency(self, nodes: int) -> float:
        """Return the images per second of a GPU, relative to those of one that is alone."""
        alone = math.fsum(self._computation(self.work.images, len(self.work.per_generator), 1))
        return alone / (nodes * self.gpus * self.at(nodes).total)

    def bytes_sent(self, nodes: int) -> float:
        """Return the bytes of gradients and parameters that a rank sends."""
        ranks = nodes * self.gpus // self.groups
        return PASSES[self.engine] * (ranks - 1) / ranks * self._gradient

    def first_where(self, condition: Callable[[StepTime], bool], most: int) -> int | None:
        """Return from how many nodes on the step meets `condition`; None if not on `most`."""
        fewest = fewest_nodes(self.groups, self.gpus)
        counts = range(fewest, most + 1, fewest)
        met = takewhile(lambda nodes: condition(self.at(nodes)), reversed(counts))
        return min(met, default=None)

    @property
    def _gradient(self) -> int:
        """Bytes of the gradient of a group's generators."""
        return _FLOAT32 * self.work.parameters * self._group[1]

    def _computation(self, images: int, generators: int, ranks: int) -> tuple[float, float]:
        """Return the seconds of the surrogate and of the generators on the fullest of `ranks`."""
        own = math.ceil(images / ranks)
        micro_batches = math.ceil(own / self.work.micro)
        surrogate = own * self.pace.image + micro_batches * self.pace.micro_batch
        return surrogate, generators * self.pace.generator

    def _reduction(self, payload: int, passes: int, ranks: int) -> float:
        inside, nodes = min(ranks, self.gpus), self._nodes_of(ranks)
        messages = math.ceil(math.log2(inside)) + math.ceil(math.log2(nodes))
        within = (inside - 1) / inside / self.links.inside
        between = (nodes - 1) / nodes / self.links.outside
        return passes * (self.links.latency * messages + payload * (within + between))

    def _nodes_of(self, ranks: int) -> int:
        """Return the most nodes that a rank group, `ranks` consecutive ranks, may lie on."""
        last_start = self.gpus - math.gcd(ranks, self.gpus)
        return (last_start + ranks - 1) // self.gpus + 1
