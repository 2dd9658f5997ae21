"""Trackers besides TensorBoard: wandb, MLflow and trackio, by the classes of Accelerate.

A tracker decides nothing: one that fails is left out from then on, with one warning. All files stay
in the folder of the run or of its sweep, and nothing is sent anywhere, unless a variable of the
tracker's own says otherwise, such as `WANDB_MODE` or `MLFLOW_TRACKING_URI`.
"""

import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.extras import require_extra

PROJECT = "bigbatch-ue"
"""Name of the project or experiment."""
TRAINING, EVALUATION = "training", "evaluation"
_ANONYMOUS = {"mlflow.user": "unknown", "mlflow.source.name": PROJECT}
"""Tags in place of those that MLflow makes of the user's name and the program's path."""

_WANDB_SERVICE = "WANDB_SERVICE"
"""Variable in which wandb leaves its service to later processes, which would die with this one."""

_WANDB_SECONDS = 10.0
"""How long its service may take to write the end of a file."""


@dataclass(frozen=True)
class TrackedRun:
    """One run in the eyes of a tracker: a training, or an arm of an evaluation.

    Attributes:
        files: of the run, or of the evaluation: `trackers.json`, and the files of wandb.
        home: folder of the run or sweep: its trackers show its runs together.
        name: name to show.
        stage: `TRAINING` or `EVALUATION`.
        key: what `trackers.json` knows it by.
        settings: hyperparameters.
    """

    files: RunFiles
    home: Path
    name: str
    stage: str
    key: str
    settings: Mapping[str, Any]

    @classmethod
    def of_training(cls, files: RunFiles, settings: Mapping[str, Any]) -> "TrackedRun":
        """Describe the training of a run, or of one of its parts."""
        home = files.home
        name = files.folder.absolute().relative_to(home.parent).as_posix()
        return cls(files, home, name, TRAINING, TRAINING, settings)

    def id_at(self, tracker: TrackerName) -> str | None:
        """Return what `tracker` knows the run by; None if it does not know it.

        Raises:
            UserError: `trackers.json` is damaged.
        """
        known = self._ids().get(tracker, {}).get(self.key)
        return None if known is None else str(known)

    def remember(self, tracker: TrackerName, own_id: str) -> None:
        """Write down what `tracker` knows the run by."""
        ids = self._ids()
        ids.setdefault(tracker, {})[self.key] = own_id
        write_json(self.files.trackers, ids)

    def _ids(self) -> dict[str, dict[str, Any]]:
        path = self.files.trackers
        ids: dict[str, dict[str, Any]] = read_json(path, dict) if path.exists() else {}
        if not all(isinstance(each, dict) for each in ids.values()):
            raise UserError(f"{path}: damaged; delete it, and trackers begin new runs")
        return ids


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the trackers of `names` are installed.

    Raises:
        UserError: one is not.
    """
    for name in names:
        where = f"tracking={name}"
        if name in (TrackerName.WANDB, TrackerName.MLFLOW):
            require_extra(name, "trackers", where)
        elif name is TrackerName.TRACKIO and importlib.util.find_spec(name) is None:
            raise UserError(f"{where}: needs {name}; run: pip install {name}")


class Trackers:
    """The trackers of one run, as far as they have not failed.

    Attributes:
        failed: those that have.
    """

    def __init__(self) -> None:
        self._opened: dict[TrackerName, _Tracker] = {}
        self._begun: dict[TrackerName, int] = {}
        self.failed: set[TrackerName] = set()

    @property
    def is_open(self) -> bool:
        """Whether there is any."""
        return bool(self._opened)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step by tag; one that is not finite leaves a gap."""
        finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        self._record(step, lambda tracker: tracker.scalars(step, finite))

    def picture(self, step: int, tag: str, image: Image) -> None:
        """Record a picture of a step."""
        self._record(step, lambda tracker: tracker.picture(step, tag, image))

    def open(self, name: TrackerName, run: TrackedRun, logged: int) -> None:
        """Open a tracker at a new run, or at the one that it knows, which has `logged` steps."""

        def start() -> None:
            known = run.id_at(name)
            tracker = _KINDS[name](run, known)
            self._opened[name], self._begun[name] = tracker, logged if known else 0
            tracker.start()
            if known is None:
                run.remember(name, tracker.id)

        self._attempt(name, start)

    def close(self, *, failed: bool) -> None:
        """Close all trackers of a run that has ended well or, if `failed`, before its end."""
        for name, tracker in list(self._opened.items()):
            self._attempt(name, partial(tracker.finish, failed=failed))

    def _record(self, step: int, action: "Callable[[_Tracker], None]") -> None:
        for name, tracker in list(self._opened.items()):
            if step >= self._begun[name]:
                self._attempt(name, partial(action, tracker))

    def _attempt(self, name: TrackerName, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.failed.add(name)
            if tracker := self._opened.pop(name, None):
                with suppress(Exception):  # else the next run would be a part of this one
                    tracker.finish(failed=True)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            note(
                f"warning: tracking={name}: {hide_home(reason)}; going on without it, and all "
                "results are kept",
                warning=True,
            )


@contextmanager
def open_trackers(
    names: Sequence[TrackerName], run: TrackedRun, logged: int = 0
) -> Iterator[Trackers]:
    """Open the trackers of `names` but TensorBoard, which has a writer of its own.

    Args:
        names: of trackers.
        run: the run to track; a tracker that knows it goes on with it.
        logged: steps of the run that a former process has recorded, and that are not repeated.

    Raises:
        UserError: one of them is not installed.
    """
    require_trackers(names)
    trackers, failed = Trackers(), True
    with _defaults(run.home):
        for name in names:
            if name is not TrackerName.TENSORBOARD:
                trackers.open(name, run, logged)
        try:
            yield trackers
            failed = False
        finally:
            trackers.close(failed=failed)


@contextmanager
def _defaults(home: Path) -> Iterator[None]:
    """Set variables of the trackers in this context, unless the user has set them."""
    defaults = {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that is gone costs 14 s, not minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_TRACKING_URI": (home / "mlflow").as_uri(),
        "TRACKIO_DIR": str(home / "trackio"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": PROJECT,
    }
    set_here = {*defaults, _WANDB_SERVICE} - os.environ.keys()
    os.environ |= {**defaults, **os.environ}
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)


class _Tracker(Protocol):
    """A tracker at one run; its steps come in ascending order."""

    def __init__(self, run: TrackedRun, known: str | None) -> None: ...

    def start(self) -> None:
        """Begin a new run, or go on with the known one."""

    @property
    def id(self) -> str:
        """What the tracker knows the run by."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""

    def picture(self, step: int, tag: str, image: Image) -> None:
        """Record a picture of a step."""

    def finish(self, *, failed: bool) -> None:
        """Close the run."""


class _Wandb:
    """Weights & Biases, without what it collects of machine, user, terminal and code."""

    def __init__(self, run: TrackedRun, known: str | None) -> None:
        import wandb
        from accelerate.tracking import WandBTracker

        settings = wandb.Settings(
            silent=True,
            console="off",
            host="",
            username="",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run, self._wandb = run, wandb
        self._tracker = WandBTracker(
            os.environ["WANDB_PROJECT"],
            mode=os.environ["WANDB_MODE"],
            dir=str(run.files.folder),
            name=run.name,
            group=run.home.name,
            job_type=run.stage,
            id=known,
            resume="allow" if known else None,
            settings=settings,
        )

    def start(self) -> None:
        self._run.files.folder.mkdir(parents=True, exist_ok=True)
        self._tracker.start()
        self._tracker.store_init_configuration(dict(self._run.settings))

    @property
    def id(self) -> str:
        return str(self._tracker.tracker.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log(dict(values), step=step)

    def picture(self, step: int, tag: str, image: Image) -> None:
        self._tracker.log_images({tag: [image]}, step=step)

    def finish(self, *, failed: bool) -> None:
        try:
            file = Path(self._tracker.tracker.settings.sync_file)
            before = file.stat().st_size
            self._wandb.finish(exit_code=int(failed))
        except Exception:  # its service may have died; the next run starts another one
            self._wandb.teardown()
            raise
        began = time.monotonic()
        while file.stat().st_size == before:  # its service writes the end; an error it only logs
            if time.monotonic() - began > _WANDB_SECONDS:
                raise OSError(f"{file}: could not be written to the end; the disk may be full")
            time.sleep(0.01)


class _Mlflow:
    """MLflow; parameters cannot change, so a run that goes on keeps those it began with."""

    def __init__(self, run: TrackedRun, known: str | None) -> None:
        import mlflow
        from accelerate.tracking import MLflowTracker

        self._run, self._known, self._mlflow = run, known, mlflow
        self._tracker = MLflowTracker(run_name=run.name, run_id=known)
        self._tracker.tags = {**_ANONYMOUS, **(self._tracker.tags or {})}

    def start(self) -> None:
        self._run.home.mkdir(parents=True, exist_ok=True)
        lock = self._run.home / "mlflow.lock"
        with locked(lock):  # else two processes would make the experiment twice
            self._tracker.start()
        self._mlflow.set_tags({"group": self._run.home.name, "stage": self._run.stage})
        if self._known is None:
            self._tracker.store_init_configuration(dict(self._run.settings))

    @property
    def id(self) -> str:
        return str(self._tracker.tracker.info.run_id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log(dict(values), step=step)

    def picture(self, step: int, tag: str, image: Image) -> None:
        self._mlflow.log_image(image, key=tag, step=step, synchronous=True)

    def finish(self, *, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


class _Trackio:
    """Trackio, which knows a run by its name."""

    def __init__(self, run: TrackedRun, known: str | None) -> None:
        from accelerate.tracking import TrackioTracker

        self.id = known or run.name
        self._tracker = TrackioTracker(
            PROJECT,
            name=self.id,
            group=run.home.name,
            config=dict(run.settings),
            resume="must" if known else "never",
        )

    def start(self) -> None:
        self._tracker.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log(dict(values), step=step)

    def picture(self, step: int, tag: str, image: Image) -> None:
        import trackio

        self._tracker.log({tag: trackio.Image(image)}, step=step)

    def finish(self, *, failed: bool) -> None:
        self._tracker.finish()


_KINDS: dict[TrackerName, type[_Tracker]] = {
    TrackerName.WANDB: _Wandb,
    TrackerName.MLFLOW: _Mlflow,
    TrackerName.TRACKIO: _Trackio,
}
