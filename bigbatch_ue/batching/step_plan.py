"""The decomposition of one step's effective batch into ranks and micro-batches."""

import math
from dataclasses import dataclass
from itertools import pairwise


def even_slice(total: int, parts: int, part: int) -> slice:
    """Return slice number `part` of `parts` of `range(total)`; sizes differ by at most one."""
    return slice(total * part // parts, total * (part + 1) // parts)


def even_sizes(total: int, parts: int) -> list[int]:
    """Return the sizes of `parts` slices of `range(total)`, which differ by at most one."""
    slices = (even_slice(total, parts, part) for part in range(parts))
    return [each.stop - each.start for each in slices]


@dataclass(frozen=True)
class StepPlan:
    """The decomposition of the effective batch of one step.

    Attributes:
        requested: B of the step.
        per_generator: images of each generator; B, or fewer under `extend: cap`.
        world_size: number of ranks.
        micro: maximum number of images in a micro-batch.
        steps_per_epoch: steps in which the mean generator sees as many images as it has, at this B.
        lr: peak learning rate, scaled with B.
        lr_reason: how `lr` was computed, in words.
    """

    requested: int
    per_generator: tuple[int, ...]
    world_size: int
    micro: int
    steps_per_epoch: int
    lr: float
    lr_reason: str

    @property
    def images(self) -> int:
        """M, images through the surrogate, over all ranks."""
        return sum(self.per_generator)

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of a rank, equal on all ranks."""
        return math.ceil(math.ceil(self.images / self.world_size) / self.micro)

    def rank_slice(self, rank: int) -> slice:
        """Return the slice of the global batch that `rank` computes."""
        return even_slice(self.images, self.world_size, rank)

    def micro_slices(self, rank: int) -> list[slice]:
        """Return the slice of the global batch of each micro-batch of `rank`; some may be empty."""
        return _cut(self.rank_slice(rank), self.micro_batches)

    @property
    def largest_micro(self) -> int:
        """Number of images in the largest micro-batch."""
        parts = self.micro_slices(self.world_size - 1)  # no rank has more images than the last
        largest: int = max(part.stop - part.start for part in parts)
        return largest

    def piece_slices(self, rank: int, pieces: int) -> list[tuple[int, slice]]:
        """Return the micro-batches of `rank`, each within one of some pieces of the global batch.

        The pieces are the same in every decomposition: each has an equal part of B of each
        generator. Each micro-batch comes with the index of its piece; none is empty.
        """
        turns = [self.requested * piece // pieces for piece in range(pieces + 1)]
        borders = [sum(min(size, turn) for size in self.per_generator) for turn in turns]
        own, found = self.rank_slice(rank), []
        for piece, (low, high) in enumerate(pairwise(borders)):
            start, stop = max(low, own.start), min(high, own.stop)
            if start < stop:
                parts = _cut(slice(start, stop), math.ceil((stop - start) / self.micro))
                found += [(piece, part) for part in parts]
        return found


def _cut(whole: slice, count: int) -> list[slice]:
    """Cut a slice into `count` even ones."""
    parts = (even_slice(whole.stop - whole.start, count, i) for i in range(count))
    return [slice(whole.start + part.start, whole.start + part.stop) for part in parts]
