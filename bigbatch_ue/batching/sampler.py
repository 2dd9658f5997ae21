"""The global batch of each step: which images, under which perturbation, seen how.

Everything is a pure function of (seed, step), for the whole batch at once, so every decomposition
takes slices of the same batch (DESIGN, invariant 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.sections import AugmentConfig, BatchConfig
from bigbatch_ue.data.views import Views, draw_views
from bigbatch_ue.runtime.randomness import Purpose, draw


@dataclass(frozen=True)
class GlobalBatch:
    """M passes through the surrogate: image `index[i]` carries perturbation `row[i]`.

    `index` and `row` are int32 [M]; `weight` float32 [M] is 1/B of the row's generator, so the
    weighted losses of a row sum to the mean over its effective batch.
    """

    index: NDArray[np.int32]
    row: NDArray[np.int32]
    views: Views
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> "GlobalBatch":
        return GlobalBatch(self.index[part], self.row[part], self.views[part], self.weight[part])

    def only(self, rows: slice) -> "GlobalBatch":
        """The passes of some perturbations, numbered from 0."""
        own = (self.row >= rows.start) & (self.row < rows.stop)
        if own.all():
            return self
        chosen = self[np.flatnonzero(own)]
        return replace(chosen, row=chosen.row - rows.start)


class Sampler:
    """Draws the global batch of any step, in any order.

    Args:
        members: for each stream of images, their positions in the train set, int64; one stream per
            cluster (scope `cluster`), or a single one (scope `all`).
        per_step: images each stream gives to one step, one number per stream.
        rows: p, the number of perturbations.
        seed: of the run.
        augment: how views are drawn.
    """

    def __init__(
        self,
        members: Sequence[NDArray[np.int64]],
        per_step: Sequence[int],
        rows: int,
        seed: int,
        augment: AugmentConfig,
    ) -> None:
        self.members = members
        self.per_step = per_step
        self.rows = rows
        self.seed = seed
        self.augment = augment
        self._shuffled = lru_cache(maxsize=2 * len(members))(self._shuffle)

    @classmethod
    def of_clusters(
        cls,
        assignment: NDArray[np.int64],
        per_generator: Sequence[int],
        batch: BatchConfig,
        seed: int,
        augment: AugmentConfig,
    ) -> "Sampler":
        """The sampler of a scope; `assignment` int64 [N] tells each image's cluster."""
        rows = len(per_generator)
        if batch.scope == "all":
            everything = np.arange(len(assignment))
            return cls([everything], per_generator[:1], rows, seed, augment)
        members = [np.flatnonzero(assignment == cluster) for cluster in range(rows)]
        return cls(members, per_generator, rows, seed, augment)

    def draw(self, step: int) -> GlobalBatch:
        """The global batch of optimizer step `step`, counted from 0."""
        parts = [self._take(stream, step) for stream in range(len(self.members))]
        index = np.concatenate(parts)
        views = draw_views(draw(self.seed, Purpose.VIEWS, step), len(index), self.augment)
        sizes = np.array(self.per_step)
        if len(self.members) == 1:  # every perturbation meets every image, in the same view
            positions = np.repeat(np.arange(len(index)), self.rows)
            row = np.tile(np.arange(self.rows, dtype=np.int32), len(index))
            weight = np.full(len(row), 1 / sizes[0], dtype=np.float32)
            return GlobalBatch(index[positions], row, views[positions], weight)
        row = np.repeat(np.arange(self.rows, dtype=np.int32), sizes)
        # one image of each row in turn: every part of the batch then tells of every row
        turns = [np.arange(size, dtype=np.int32) for size in sizes]
        turn = np.argsort(np.concatenate(turns), kind="stable")
        row = row[turn]
        return GlobalBatch(index[turn], row, views[turn], (1 / sizes).astype(np.float32)[row])

    def _take(self, stream: int, step: int) -> NDArray[np.int32]:
        """Images at the step's positions of an endless, each epoch reshuffled, stream."""
        size = len(self.members[stream])
        start = step * self.per_step[stream]
        stop = start + self.per_step[stream]
        epochs = range(start // size, (stop - 1) // size + 1)
        taken = np.concatenate([self._shuffled(stream, epoch) for epoch in epochs])
        offset = start - epochs.start * size
        return taken[offset : offset + self.per_step[stream]].astype(np.int32)

    def _shuffle(self, stream: int, epoch: int) -> NDArray[np.int64]:
        return draw(self.seed, Purpose.SHUFFLE, epoch, stream).permutation(self.members[stream])
