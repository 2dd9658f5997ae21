"""What TensorBoard shows of an evaluation: a run for each arm."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.figures import confusion_matrix
from bigbatch_ue.files.atomic import atomic_folder

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
_LONGEST = 200


def write_tensorboard(folder: Path, arms: Sequence[Arm]) -> None:
    """Write TensorBoard's files of `arms`, in the place of whatever `folder` held.

    Each arm has a run named after it: test accuracy and train loss by epoch, the confusion matrix,
    and for the HPARAMS page its `SETTINGS` and `METRICS`.
    """
    with atomic_folder(folder) as temporary:
        for name, arm in zip(_names(arms), arms, strict=True):
            _write_run(temporary / name, arm)


def _write_run(folder: Path, arm: Arm) -> None:
    with SummaryWriter(str(folder)) as board:
        for tag, values in (("accuracy/test", arm.accuracies), ("loss/train", arm.losses)):
            for epoch, value in enumerate(values, 1):
                board.add_scalar(tag, value, epoch)
        epochs = len(arm.accuracies)
        board.add_figure("confusion", confusion_matrix(arm.confusion), epochs)
        settings, metrics = (
            {key: getattr(arm, key) for key in keys} for keys in (SETTINGS, METRICS)
        )
        board.add_hparams(settings, metrics, run_name=".", global_step=epochs)


def _names(arms: Sequence[Arm]) -> Iterator[str]:
    """A folder name for each; arms that are named alike are numbered from the second on."""
    seen: Counter[str] = Counter()
    for arm in arms:
        name = _name(arm)
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def _name(arm: Arm) -> str:
    labels = Path(arm.labels).name
    parts = [arm.dataset, arm.arm, arm.countermeasure, f"{arm.fraction:g}", labels, arm.target]
    if arm.effective_batch is not None:
        parts.append(f"b{arm.effective_batch}")
    if arm.run_seed is not None:
        parts.append(f"r{arm.run_seed}")
    slugs = (re.sub(r"[^a-z0-9_.]+", "-", part.lower()).strip("-.") for part in parts)
    return f"{'-'.join(slugs)[:_LONGEST]}-s{arm.seed}"
