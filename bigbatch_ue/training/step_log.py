"""The log of a run's steps: JSON lines and trackers, from the main process alone."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self, TextIO

from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from bigbatch_ue.batching.plan import BatchPlan
from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.config.schema import Config
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import Moments, count_steps, drop_steps_from
from bigbatch_ue.runs.noise_scale import SmoothedNoiseScale
from bigbatch_ue.runs.result import Agreement
from bigbatch_ue.runs.trackers import TrackedRun, Trackers, open_trackers


class StepLog:
    """Scalars of every step and pictures of the perturbations.

    Args:
        lines: text file for JSON lines.
        tensorboard: writer of events; None if they are not wanted.
        trackers: the other trackers.
    """

    def __init__(
        self, lines: TextIO, tensorboard: SummaryWriter | None, trackers: Trackers
    ) -> None:
        self.lines, self.tensorboard, self.trackers = lines, tensorboard, trackers
        self.smoothed: defaultdict[str, SmoothedNoiseScale] = defaultdict(SmoothedNoiseScale)

    @classmethod
    @contextmanager
    def open(cls, run: Run, config: Config, start: int) -> Iterator[Self]:
        """Open the log of `run` at step `start`; drop that and later steps of a former process.

        Trackers cannot drop steps. They keep them, and get only later ones.
        """
        logged, tracked = count_steps(run.metrics), TrackedRun.of_training(run, config.shown)
        drop_steps_from(run.metrics, start)
        with ExitStack() as stack:
            tensorboard = None
            if TrackerName.TENSORBOARD in config.tracking:
                writer = SummaryWriter(str(run.tensorboard), purge_step=start)
                tensorboard = stack.enter_context(writer)
            lines = stack.enter_context(run.metrics.open("a", buffering=1))
            trackers = stack.enter_context(open_trackers(config.tracking, tracked, logged))
            yield cls(lines, tensorboard, trackers)

    def step(
        self,
        step: int,
        losses: list[float],
        lr: float,
        seconds: float,
        noise: Mapping[str, Moments],
        skipped: Sequence[int],
        plan: BatchPlan,
    ) -> None:
        """Record one step of `plan`: each generator's loss and gradient noise, and the speed.

        A skipped step has no loss; `skipped` lists the generators that caused it.
        """
        now = plan.at(step)
        scalars = {
            "lr": lr,
            "effective_batch": max(now.per_generator),
            "images_seen": plan.images_before(step + 1),
            "images_per_s": now.images / seconds,
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
        self._scalars(step, scalars)

    def agreement(self, agreement: Agreement) -> None:
        """Record how much the clusters tell of the labels, before the first step."""
        self._scalars(0, {"agreement/nmi": agreement.nmi, "agreement/purity": agreement.purity})
        if self.tensorboard:
            self.tensorboard.add_text("agreement/table", _as_table(agreement.table), 0)

    def pictures(self, step: int, delta: Tensor) -> None:
        """Record the perturbations [p, C, H, W] as pictures, grey where they are zero."""
        largest = delta.abs().amax().clamp(min=1e-12)
        shown = (delta / largest + 1) / 2
        if self.tensorboard:
            self.tensorboard.add_images("perturbations", shown, step)
        if not self.trackers.is_open:
            return
        grid = make_grid(shown.float().cpu(), nrow=math.isqrt(len(shown) - 1) + 1, padding=1)
        pixels = (grid * 255).round().byte().permute(1, 2, 0).numpy()
        self.trackers.picture(step, "perturbations", Image.fromarray(pixels))

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if self.tensorboard:
            for tag, value in scalars.items():
                self.tensorboard.add_scalar(tag, value, step)
        self.trackers.scalars(step, scalars)


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
