"""What is kept of a run's steps: JSON lines and TensorBoard events, by the main process alone."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments, drop_steps_from
from bigbatch_ue.training.noise import SmoothedNoiseScale


class StepLog:
    """Scalars of every step and pictures of the perturbations; a context manager.

    Args:
        run: whose folder is written to.
        start: first step that will be logged; what an interrupted run had logged beyond is dropped.
        passes: images through the surrogate in one step.
    """

    def __init__(self, run: Run, start: int, passes: int) -> None:
        drop_steps_from(run.metrics, start)
        self.passes = passes
        self.smoothed: defaultdict[str, SmoothedNoiseScale] = defaultdict(SmoothedNoiseScale)
        self.lines = run.metrics.open("a", buffering=1)
        self.board = SummaryWriter(str(run.tensorboard), purge_step=start)

    def step(
        self,
        step: int,
        losses: list[float],
        lr: float,
        seconds: float,
        noise: Mapping[str, Moments],
        skipped: Sequence[int],
    ) -> None:
        """Record one optimizer step: each generator's loss, its gradient's noise, and the speed.

        Of a step that was `skipped`, for the sake of these generators, there is no loss.
        """
        scalars = {
            "lr": lr,
            "images_seen": self.passes * (step + 1),
            "images_per_s": self.passes / seconds,
        }
        what = {"skipped": list(skipped)} if skipped else {"loss": losses}
        line = {"step": step, **what, **scalars}
        if noise:
            line["noise"] = {space: _finite(moments) for space, moments in noise.items()}
        self.lines.write(json.dumps(line) + "\n")
        if not skipped:
            scalars["loss/mean"] = sum(losses) / len(losses)
            scalars |= {f"loss/cluster_{row:02d}": value for row, value in enumerate(losses)}
        for name, value in scalars.items():
            self.board.add_scalar(name, value, step)
        for space, moments in noise.items():
            scales = self.smoothed[space].update(*moments)
            for row, scale in enumerate(scales):
                if scale is not None:
                    self.board.add_scalar(f"noise_scale_{space}/cluster_{row:02d}", scale, step)

    def pictures(self, step: int, delta: Tensor) -> None:
        """Record the perturbations [p, C, H, W], grey where they are zero."""
        largest = delta.abs().amax().clamp(min=1e-12)
        self.board.add_images("perturbations", (delta / largest + 1) / 2, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lines.close()
        self.board.close()


def _finite(moments: Moments) -> dict[str, list[float | None]]:
    return {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in moments._asdict().items()
    }
