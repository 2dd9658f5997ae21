"""The global batch of each step: images, their generators, their views and their weights.

It is a pure function of (seed, step), for the whole batch at once: where a stream of images stands
is the sum of the batches before. Every decomposition therefore
takes slices of the same batch (docs/design.md, invariant 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.batching.schedule import BatchSchedule
from bigbatch_ue.config.batch_section import BatchConfig
from bigbatch_ue.config.sections import AugmentConfig
from bigbatch_ue.data.distortions import Distortions, draw_distortions
from bigbatch_ue.data.views import Views, draw_views
from bigbatch_ue.runtime.randomness import Purpose, draw


@dataclass(frozen=True)
class GlobalBatch:
    """The M images that pass the surrogate in one optimizer step, over all ranks.

    Attributes:
        index: position of each image in the train set, int32 [M].
        generator: index of the generator whose perturbation the image carries, int32 [M].
        views: the view of each image.
        weight: 1/B of the image's generator, float32 [M]. The weighted losses of a generator sum
            to the mean over its effective batch.
        distortions: distortions of each view; None without `augment.robust`.
    """

    index: NDArray[np.int32]
    generator: NDArray[np.int32]
    views: Views
    weight: NDArray[np.float32]
    distortions: Distortions | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> "GlobalBatch":
        return GlobalBatch(
            self.index[part],
            self.generator[part],
            self.views[part],
            self.weight[part],
            self.distortions[part] if self.distortions else None,
        )

    def only(self, generators: slice) -> "GlobalBatch":
        """Select the images of some generators, which are then numbered from 0."""
        own = (self.generator >= generators.start) & (self.generator < generators.stop)
        if own.all():
            return self
        selected = self[np.flatnonzero(own)]
        return replace(selected, generator=selected.generator - generators.start)


class Sampler:
    """The source of global batches, of any step in any order.

    Args:
        members: for each stream of images, their positions in the train set, int64; one stream per
            cluster (scope `cluster`), or a single one (scope `all`).
        schedule: images of each stream in every step.
        cap: whether a stream gives at most all of its images in a step.
        generators: p, the number of generators.
        seed: of the run.
        augment: padding and flip of the views.
    """

    def __init__(
        self,
        members: Sequence[NDArray[np.int64]],
        schedule: BatchSchedule,
        cap: bool,
        generators: int,
        seed: int,
        augment: AugmentConfig,
    ) -> None:
        self.members = members
        self.schedule = schedule
        self.cap = cap
        self.generators = generators
        self.seed = seed
        self.augment = augment
        self._shuffled = lru_cache(maxsize=2 * len(members))(self._shuffle)

    @classmethod
    def of_clusters(
        cls,
        assignment: NDArray[np.int64],
        schedule: BatchSchedule,
        generators: int,
        batch: BatchConfig,
        seed: int,
        augment: AugmentConfig,
    ) -> "Sampler":
        """Make the sampler of `batch.scope`; `assignment` int64 [N] is each image's cluster."""
        members = [np.arange(len(assignment))]
        if batch.scope == "cluster":
            members = [np.flatnonzero(assignment == cluster) for cluster in range(generators)]
        return cls(members, schedule, batch.extend == "cap", generators, seed, augment)

    def following(self, schedule: BatchSchedule) -> "Sampler":
        """Make the sampler of the same streams with another schedule."""
        return Sampler(self.members, schedule, self.cap, self.generators, self.seed, self.augment)

    def draw(self, step: int) -> GlobalBatch:
        """Draw the global batch of optimizer step `step`, counted from 0."""
        taken = [self._take(stream, step) for stream in range(len(self.members))]
        index = np.concatenate(taken)
        views = draw_views(draw(self.seed, Purpose.VIEWS, step), len(index), self.augment)
        distortions = self._draw_distortions(step, len(index))
        sizes = np.array([len(part) for part in taken])
        generators = np.arange(self.generators, dtype=np.int32)
        if len(self.members) == 1:  # each image carries every perturbation, in the same view
            order = np.repeat(np.arange(len(index)), self.generators)
            generator = np.tile(generators, len(index))
            weight = np.full(len(generator), 1 / sizes[0], dtype=np.float32)
        else:  # one image of each generator in turn: every slice of the batch mixes clusters
            turns = [np.arange(size, dtype=np.int32) for size in sizes]
            order = np.argsort(np.concatenate(turns), kind="stable")
            generator = np.repeat(generators, sizes)[order]
            weight = (1 / sizes).astype(np.float32)[generator]
        distorted = distortions[order] if distortions else None
        return GlobalBatch(index[order], generator, views[order], weight, distorted)

    def _draw_distortions(self, step: int, count: int) -> Distortions | None:
        if not self.augment.robust:
            return None
        return draw_distortions(draw(self.seed, Purpose.DISTORTIONS, step), count)

    def _take(self, stream: int, step: int) -> NDArray[np.int32]:
        """Take the images of one step from an endless stream, which is reshuffled each epoch."""
        size = len(self.members[stream])
        limit = size if self.cap else None
        start, stop = (self.schedule.total(end, limit) for end in (step, step + 1))
        epochs = range(start // size, (stop - 1) // size + 1)
        taken = np.concatenate([self._shuffled(stream, epoch) for epoch in epochs])
        offset = start - epochs.start * size
        return taken[offset : offset + stop - start].astype(np.int32)

    def _shuffle(self, stream: int, epoch: int) -> NDArray[np.int64]:
        return draw(self.seed, Purpose.SHUFFLE, epoch, stream).permutation(self.members[stream])
