"""The schedule of the effective batch: B of every step, in closed form."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.batch_section import BatchConfig, Ramp
from bigbatch_ue.runs.result import ChosenBatch


@dataclass(frozen=True)
class BatchSchedule:
    """The effective batch B of every step, in segments of equal B; the last one has no end.

    Attributes:
        starts: first step of each segment, ascending from 0.
        batches: B of each segment; neighbours differ.
    """

    starts: tuple[int, ...]
    batches: tuple[int, ...]

    @classmethod
    def constant(cls, batch: int) -> Self:
        """Make the schedule of a fixed B."""
        return cls((0,), (batch,))

    @classmethod
    def of_points(cls, points: Iterable[tuple[int, int]]) -> Self:
        """Make the schedule of some (step, B), from step 0 on, each valid up to the next."""
        first, *others = points
        kept = [first, *(new for old, new in pairwise([first, *others]) if new[1] != old[1])]
        return cls(*zip(*kept, strict=True))

    @classmethod
    def of_ramp(cls, first: int, last: int, steps: int) -> Self:
        """Make the schedule from `first` at step 0 to `last` at `steps`, on a rounded line."""
        change = abs(last - first)
        if change == 0:
            return cls.constant(first)
        # B has changed by k when k - 1/2 <= change x step / steps.
        k = np.arange(1, change + 1)
        reached = -(-(steps * (2 * k - 1)) // (2 * change))
        kept = np.append(reached[1:] != reached[:-1], True)
        batches = first + (k[kept] if last > first else -k[kept])
        return cls((0, *reached[kept].tolist()), (first, *batches.tolist()))

    def at(self, step: int) -> int:
        """Return B of a step, counted from 0."""
        return self.batches[bisect_right(self.starts, step) - 1]

    def segments(self, steps: int) -> list[tuple[range, int]]:
        """Return the segments of the first `steps` steps, each with its B."""
        starts = self.starts[: bisect_left(self.starts, steps)]
        parts = (range(start, end) for start, end in pairwise([*starts, steps]))
        return list(zip(parts, self.batches, strict=False))

    def total(self, steps: int, limit: int | None = None) -> int:
        """Return the sum of B, or of `limit` where B exceeds it, over the first `steps` steps."""
        if steps == 0:
            return 0
        starts, batches = self._arrays
        count = bisect_left(self.starts, steps)
        taken = batches[:count] if limit is None else np.minimum(batches[:count], limit)
        return int(taken @ np.diff(starts[:count], append=steps))

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.array(self.starts, dtype=np.int64), np.array(self.batches, dtype=np.int64)


def configured_schedule(batch: BatchConfig, chosen: ChosenBatch | None = None) -> BatchSchedule:
    """Make the schedule of a configuration, and of what `batch.effective=auto` has chosen.

    Raises:
        ValueError: with `auto`, nothing has been chosen.
    """
    if chosen is not None:
        return BatchSchedule.of_points([(0, chosen.first), (chosen.step, chosen.batch)])
    if batch.effective == "auto":
        raise ValueError("batch.effective=auto: no batch has been chosen")
    match batch.schedule:
        case None:
            return BatchSchedule.constant(batch.effective)
        case Ramp() as ramp:
            return BatchSchedule.of_ramp(ramp.ramp_from, batch.effective, ramp.ramp_steps)
        case points:
            return BatchSchedule.of_points(points)
