"""The log of a run's steps: JSON lines and TensorBoard events, from the main process alone."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self, TextIO

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments, drop_steps_from
from bigbatch_ue.runs.noise_scale import SmoothedNoiseScale
from bigbatch_ue.runs.result import Agreement


class StepLog:
    """Scalars of every step and pictures of the perturbations.

    Args:
        lines: text file for JSON lines.
        tensorboard: writer of events.
        images_per_step: images through the surrogate in one step.
    """

    def __init__(self, lines: TextIO, tensorboard: SummaryWriter, images_per_step: int) -> None:
        self.lines, self.tensorboard = lines, tensorboard
        self.images_per_step = images_per_step
        self.smoothed: defaultdict[str, SmoothedNoiseScale] = defaultdict(SmoothedNoiseScale)

    @classmethod
    @contextmanager
    def open(cls, run: Run, start: int, images_per_step: int) -> Iterator[Self]:
        """Open the log of `run` at step `start`; drop that and later steps of a former process."""
        drop_steps_from(run.metrics, start)
        with (
            SummaryWriter(str(run.tensorboard), purge_step=start) as tensorboard,
            run.metrics.open("a", buffering=1) as lines,
        ):
            yield cls(lines, tensorboard, images_per_step)

    def step(
        self,
        step: int,
        losses: list[float],
        lr: float,
        seconds: float,
        noise: Mapping[str, Moments],
        skipped: Sequence[int],
    ) -> None:
        """Record one optimizer step: each generator's loss and gradient noise, and the speed.

        A skipped step has no loss; `skipped` lists the generators that caused it.
        """
        scalars = {
            "lr": lr,
            "images_seen": self.images_per_step * (step + 1),
            "images_per_s": self.images_per_step / seconds,
        }
        outcome = {"skipped": list(skipped)} if skipped else {"loss": losses}
        line = {"step": step, **outcome, **scalars}
        if noise:
            line["noise"] = {space: _finite(moments) for space, moments in noise.items()}
        self.lines.write(json.dumps(line) + "\n")
        if not skipped:
            scalars["loss/mean"] = sum(losses) / len(losses)
            scalars |= {f"loss/cluster_{index:02d}": loss for index, loss in enumerate(losses)}
        for space, moments in noise.items():
            for index, scale in enumerate(self.smoothed[space].update(*moments)):
                if scale is not None:
                    scalars[f"noise_scale_{space}/cluster_{index:02d}"] = scale
        for tag, value in scalars.items():
            self.tensorboard.add_scalar(tag, value, step)

    def agreement(self, agreement: Agreement) -> None:
        """Record how much the clusters tell of the labels, before the first step."""
        self.tensorboard.add_scalar("agreement/nmi", agreement.nmi, 0)
        self.tensorboard.add_scalar("agreement/purity", agreement.purity, 0)
        self.tensorboard.add_text("agreement/table", _as_table(agreement.table), 0)

    def pictures(self, step: int, delta: Tensor) -> None:
        """Record the perturbations [p, C, H, W] as pictures, grey where they are zero."""
        largest = delta.abs().amax().clamp(min=1e-12)
        self.tensorboard.add_images("perturbations", (delta / largest + 1) / 2, step)


def _as_table(counts: Sequence[Sequence[int]]) -> str:
    """Write images by cluster and class as a Markdown table."""
    heading = ["cluster", *(f"class {label}" for label in range(len(counts[0])))]
    rows = [[str(cluster), *map(str, row)] for cluster, row in enumerate(counts)]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (heading, ["-"] * len(heading), *rows)
    )


def _finite(moments: Moments) -> dict[str, list[float | None]]:
    """Return the moments by name, ready for JSON: None instead of NaN and infinity."""
    return {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in moments._asdict().items()
    }
