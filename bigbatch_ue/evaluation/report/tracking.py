"""An evaluation in the trackers besides TensorBoard: one run for each arm, with the same tags."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.charts import confusion_matrix
from bigbatch_ue.evaluation.report.tensorboard import SETTINGS, curves, run_names
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.trackers import EVALUATION, TrackedRun, Trackers, open_trackers


def track_arms(folder: Path, arms: Sequence[Arm], names: Sequence[TrackerName]) -> None:
    """Send each arm to the trackers of `names` but TensorBoard, unless they have it already.

    Args:
        folder: of the evaluation.
        arms: the finished arms.
        names: of the trackers; one that fails gets no further arm.

    Raises:
        UserError: a tracker is not installed, or `trackers.json` is damaged.
    """
    names = [name for name in names if name is not TrackerName.TENSORBOARD]
    home = RunFiles(folder.parent).home
    place = folder.absolute().relative_to(home.parent).as_posix()
    for name, arm in zip(run_names(arms), arms, strict=True):
        settings = {key: getattr(arm, key) for key in SETTINGS}
        settings["labels"] = Path(arm.labels).name  # of a file, without its folder
        run = TrackedRun(
            RunFiles(folder), home, f"{place}/{name}", EVALUATION, arm.inputs, settings
        )
        new = [each for each in names if run.id_at(each) is None]
        if new:
            with open_trackers(new, run) as trackers:
                _track(arm, trackers)
            names = [each for each in names if each not in trackers.failed]


def _track(arm: Arm, trackers: Trackers) -> None:
    by_epoch: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for tag, series in curves(arm).items():
        for epoch, value in series.items():
            by_epoch[epoch][tag] = value
    for epoch, values in sorted(by_epoch.items()):
        trackers.scalars(epoch, values)
    buffer = io.BytesIO()
    confusion_matrix(arm.confusion).savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        trackers.picture(len(arm.accuracies), "confusion", picture.convert("RGB"))
