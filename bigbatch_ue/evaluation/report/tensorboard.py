"""An evaluation in TensorBoard: one run for each arm."""

from collections.abc import Sequence
from pathlib import Path

from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.charts import confusion_matrix
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.reporting.tensorboard import HparamsRow, Series, write_events
from bigbatch_ue.reporting.words import numbered, slug

SETTINGS = (
    "dataset",
    "arm",
    "countermeasure",
    "fraction",
    "labels",
    "target",
    "seed",
    "effective_batch",
    "run_seed",
)
METRICS = ("final_accuracy", "peak_accuracy", "tail_std", "auc", "balanced_accuracy")
_MAX_NAME = 200


def write_tensorboard(folder: Path, arms: Sequence[Arm]) -> None:
    """Write the TensorBoard files of `arms`, replacing `folder` as a whole.

    The run of an arm has its test accuracy and training loss by epoch, its confusion matrix, and
    for the HPARAMS page its `SETTINGS` and `METRICS`.
    """
    with atomic_folder(folder) as temporary:
        for name, arm in zip(run_names(arms), arms, strict=True):
            write_events(
                temporary / name,
                curves(arm),
                figures={"confusion": {len(arm.accuracies): confusion_matrix(arm.confusion)}},
                row=HparamsRow(name, {key: getattr(arm, key) for key in SETTINGS}, METRICS),
            )


def curves(arm: Arm) -> dict[str, Series]:
    """Return the test accuracy and training loss of an arm by epoch, and its `METRICS`."""
    epochs = len(arm.accuracies)
    return {
        "accuracy/test": dict(enumerate(arm.accuracies, 1)),
        "loss/train": dict(enumerate(arm.losses, 1)),
        **{metric: {epochs: getattr(arm, metric)} for metric in METRICS},
    }


def run_names(arms: Sequence[Arm]) -> list[str]:
    """Return a name for each arm that says what it is, different from all others."""
    return list(numbered(map(_run_name, arms)))


def _run_name(arm: Arm) -> str:
    labels = Path(arm.labels).name
    parts = [arm.dataset, arm.arm, arm.countermeasure, f"{arm.fraction:g}", labels, arm.target]
    if arm.effective_batch is not None:
        parts.append(f"b{arm.effective_batch}")
    if arm.run_seed is not None:
        parts.append(f"r{arm.run_seed}")
    return f"{'-'.join(map(slug, parts))[:_MAX_NAME]}-s{arm.seed}"
