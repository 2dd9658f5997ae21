"""The choice of `batch.effective=auto`: B from the noise of the first steps."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.batching.plan import BatchPlan
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import read_moments
from bigbatch_ue.runs.result import ChosenBatch, read_chosen_batch
from bigbatch_ue.runtime.signals import StopRequest
from bigbatch_ue.training.noise import summarise_noise

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class BatchChoice:
    """The place of the choice, and what it is made from.

    The first rank group to choose records it for all, and for those who resume the run.

    Attributes:
        run: the run, whose folder gets the record.
        parts: the run of each rank group, which has its metrics, and its number of generators.
    """

    run: Run
    parts: Sequence[tuple[Run, int]]

    def make(self, plan: BatchPlan, stop: StopRequest) -> ChosenBatch | None:
        """Choose B of `plan`, once all rank groups have measured; or return what was chosen.

        Called on the main process of each rank group.

        Returns:
            None if `stop` asks for it before the other groups have measured.
        """
        assert plan.choice_step is not None, "there is nothing to choose"
        record = self.run.chosen_batch
        while not record.exists():
            moments = self._moments(plan.choice_step)
            if moments is not None:
                with locked(record.with_suffix(".lock")):
                    if not record.exists():
                        noise = summarise_noise(*moments)
                        write_json(record, asdict(plan.choose(noise["value"] if noise else None)))
            elif stop.reason():
                return None
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        return read_chosen_batch(record)

    def _moments(self, steps: int) -> NDArray[np.float64] | None:
        """Return the estimates of the first `steps` steps [2, T, p]; None if some are missing."""
        read = (read_moments(run.metrics, "delta", count) for run, count in self.parts)
        moments = [each[:, :steps] for each in read]
        if min(each.shape[1] for each in moments) < steps:
            return None
        return np.concatenate(moments, axis=2)
