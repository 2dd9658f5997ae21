"""The result of training, `result.json`: the contract between training and the later stages."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from bigbatch_ue.files.formats import first_problem, read_json, write_json
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.metrics_file import read_steps
from bigbatch_ue.runtime.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD_AGREEMENT, POOR_AGREEMENT = 0.8, 0.5
"""Share of the label from which protection is expected, and below which little is expected."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of clusters and classes.

    Attributes:
        nmi: normalised mutual information of cluster and class, from 0 to 1: 2 I / (H + H'), the
            arithmetic mean of Vinh et al. (JMLR 2010, table 2).
        purity: share of images whose class is the most frequent one of their cluster.
        homogeneity: share of the information on the class that the cluster gives, from 0 to 1
            (Rosenberg and Hirschberg, EMNLP 2007, equation 1).
        table: images by cluster (rows) and class (columns).
    """

    nmi: float
    purity: float
    homogeneity: float
    table: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        """Say in one line what the clusters tell of the labels, and what to expect of it."""
        told = f"clusters tell {100 * self.homogeneity:.0f} % of the label "
        told += f"(NMI {self.nmi:.2f}, purity {self.purity:.2f})"
        if self.homogeneity >= GOOD_AGREEMENT:
            return f"{told}: enough for protection"
        expected = "little" if self.homogeneity < POOR_AGREEMENT else "partial"
        return f"{told}: expect {expected} protection; clusters.by=labels tells all of it"


@dataclass(frozen=True)
class ChosenBatch:
    """The effective batch that `batch.effective=auto` has chosen.

    Attributes:
        batch: B from `step` on.
        first: B of the steps before it.
        step: number of steps at `first`.
        noise_scale: over those steps, in the space of the perturbation, in images: the median of
            the generators; None if it could not be told.
    """

    batch: int
    first: int
    step: int
    noise_scale: float | None

    def __str__(self) -> str:
        """Say what was chosen, and why."""
        told = f"{self.noise_scale:,.3g}" if self.noise_scale is not None else "not to be told"
        kept = "stays" if self.batch == self.first else "="
        return (
            f"batch.effective=auto: noise scale {told} after step {self.step:,}; "
            f"B {kept} {self.batch:,}"
        )


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished run.

    Attributes:
        dataset: name of the data set, with the home folder as `~`.
        seed: of the run.
        scope: `cluster` or `all`.
        requested_batch: effective batch B as configured or chosen; the last one of a schedule.
        effective_batch: largest batch of a generator; differs from B under `extend: cap`. Of a
            schedule, the mean over all steps, rounded to whole images.
        effective_batch_per_generator: images of each generator in one step; or their mean, rounded.
        optimizer_steps: T, skipped ones included.
        images_seen: images through the surrogate in all steps.
        learning_rate: peak, after scaling with B.
        final_loss: of each generator in the last step; None if it is not finite.
        skipped_steps: number of steps skipped because a loss or gradient was not finite.
        noise_scale: gradient noise scale in images, by space (`noise.summarise_noise`).
        engine: an `EngineName`.
        world_size: number of ranks.
        cluster_groups: number of rank groups, each of which trained its own clusters.
        micro_batch: images in the largest micro-batch.
        micro_batches: largest number of micro-batches of a rank in one step.
        accumulation: `delta` or `engine`.
        compute: a `ComputeMode`, by which the surrogate was computed.
        device: `cpu` or `cuda`.
        resumed_at: step of the checkpoint that the last process started from.
        seconds: duration of training in the last process.
        peak_memory_mib: peak memory of a process during training, MiB.
        images_per_second: through the surrogate, in the last process.
        versions: of bigbatch_ue and torch.
        agreement: of clusters and classes; None with a single class, and in older results.
        chosen_batch: what `batch.effective=auto` has chosen; None without it.
        folder: of the run that it was read from; not in the file.
    """

    dataset: str
    seed: int
    scope: str
    requested_batch: int
    effective_batch: int
    effective_batch_per_generator: tuple[int, ...]
    optimizer_steps: int
    images_seen: int
    learning_rate: float
    final_loss: tuple[float | None, ...]
    skipped_steps: int
    noise_scale: dict[str, Any]
    engine: str
    world_size: int
    cluster_groups: int
    micro_batch: int
    micro_batches: int
    accumulation: str
    compute: dict[str, Any]
    device: str
    resumed_at: int
    seconds: float
    peak_memory_mib: float
    images_per_second: float
    versions: dict[str, str]
    agreement: Agreement | None = None
    chosen_batch: ChosenBatch | None = None
    folder: Path | None = field(default=None, compare=False)

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically."""
        content = asdict(self)
        del content["folder"]
        write_json(path, content)

    def plot(self) -> "Figure":
        """Draw losses, learning rate and noise scale against the step, and the perturbations.

        Raises:
            UserError: the other files of the run are missing or damaged, or the result was not
                read with `read_result`.
        """
        from bigbatch_ue.runs.plot import training_figure

        if self.folder is None:
            raise UserError("plot: the run of this result is not known; use read_result")
        files, count = RunFiles(self.folder), self.cluster_groups
        parts = [files.group(k, count) for k in range(1, count + 1)] if count > 1 else [files]
        generators = [len(read_result(part.result).final_loss) for part in parts]
        return training_figure(
            f"{self.dataset}, effective batch {self.effective_batch:,}",
            self.effective_batch,
            [read_steps(part.metrics, p) for part, p in zip(parts, generators, strict=True)],
            files.perturbations,
        )


_RESULT = TypeAdapter(TrainingResult)
_CHOSEN_BATCH = TypeAdapter(ChosenBatch)


def read_chosen_batch(path: Path) -> ChosenBatch | None:
    """Read the record of `batch.effective=auto`; None if nothing has been chosen yet.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return _CHOSEN_BATCH.validate_python(read_json(path, dict))
    except ValidationError as error:
        raise UserError(
            f"{path}: not the record of a chosen batch ({first_problem(error)}); "
            "delete it to choose again"
        ) from None


def read_result(path: Path) -> TrainingResult:
    """Read a `result.json`.

    Raises:
        UserError: the file is missing, damaged, or not of a finished run.
    """
    content = read_json(path, dict)
    content["noise_scale"] = content.get("noise_scale") or {}  # absent from older runs
    try:
        return replace(_RESULT.validate_python(content), folder=path.parent)
    except ValidationError as error:
        raise UserError(
            f"{path}: not the result of a run ({first_problem(error)}); train again"
        ) from None


def merge_results(results: Sequence[TrainingResult], noise_scale: dict[str, Any]) -> TrainingResult:
    """Combine the results of rank groups, each of which trained its own clusters.

    Args:
        results: of all rank groups, in the order of their clusters.
        noise_scale: over all clusters.

    Returns:
        One result: the sum of the work, the longest duration, the largest memory.
    """
    return replace(
        results[0],
        effective_batch=max(result.effective_batch for result in results),
        effective_batch_per_generator=sum((r.effective_batch_per_generator for r in results), ()),
        images_seen=sum(result.images_seen for result in results),
        final_loss=sum((result.final_loss for result in results), ()),
        skipped_steps=max(result.skipped_steps for result in results),
        noise_scale=noise_scale,
        world_size=sum(result.world_size for result in results),
        cluster_groups=len(results),
        micro_batch=max(result.micro_batch for result in results),
        micro_batches=max(result.micro_batches for result in results),
        seconds=max(result.seconds for result in results),
        peak_memory_mib=max(result.peak_memory_mib for result in results),
        images_per_second=round(sum(result.images_per_second for result in results), 1),
    )
