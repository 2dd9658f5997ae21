"""One run, one folder: configuration, metrics, checkpoints, result."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.yaml_files import format_yaml
from bigbatch_ue.runs.identity import DataIdentity, answer, answer_digest, hash_weights
from bigbatch_ue.runtime.errors import UserError


@dataclass(frozen=True)
class RunFiles:
    """The files in the folder of a run or of a sweep's cell, and of the run's evaluation."""

    folder: Path

    @property
    def config(self) -> Path:
        """YAML: the resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def state(self) -> Path:
        """JSON: digests of everything that decides the result, and of the data set."""
        return self.folder / "run.json"

    @property
    def clusters(self) -> Path:
        """safetensors: assignment, centres, permutation."""
        return self.folder / "clusters.safetensors"

    @property
    def perturbations(self) -> Path:
        """safetensors: `perturbations` [p, C, H, W]."""
        return self.folder / "perturbations.safetensors"

    @property
    def metrics(self) -> Path:
        """JSON lines, one per optimizer step (`metrics_file`)."""
        return self.folder / "metrics.jsonl"

    @property
    def chosen_batch(self) -> Path:
        """JSON: a `ChosenBatch`; exists once `batch.effective=auto` has chosen."""
        return self.folder / "chosen-batch.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states of an unfinished run (`checkpoints`)."""
        return self.folder / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard events of the training."""
        return self.folder / "tensorboard"

    @property
    def trackers(self) -> Path:
        """JSON: what trackers know the run by (`trackers`)."""
        return self.folder / "trackers.json"

    @property
    def result(self) -> Path:
        """JSON: a `TrainingResult`; exists once the run has finished."""
        return self.folder / "result.json"

    @property
    def protected(self) -> Path:
        """Folder of the protected data set, unless `protect --out` names another."""
        return self.folder / "protected"

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluation."""
        return self.folder / "evaluation"

    @property
    def evaluation_results(self) -> Path:
        """JSON: a list of `Arm`."""
        return self.evaluation / "results.json"

    @property
    def controls(self) -> Path:
        """Folder of control runs, such as that of a random surrogate."""
        return self.folder / "controls"

    @property
    def groups(self) -> Path:
        """Folder of the parts of a run that rank groups train (`compute.cluster_groups`)."""
        return self.folder / "groups"

    def group(self, number: int, count: int) -> "RunFiles":
        """Return the files of the part that rank group `number`, from 1 to `count`, trains."""
        return RunFiles(self.groups / f"{number}-of-{count}")

    @property
    def cell(self) -> Path:
        """YAML: the configuration of a sweep's cell."""
        return self.folder / "cell.yaml"

    @property
    def outcome(self) -> Path:
        """JSON: an `Outcome`; exists once a cell has finished or failed."""
        return self.folder / "outcome.json"

    @property
    def log(self) -> Path:
        """Text: output of a cell."""
        return self.folder / "log.txt"

    @property
    def home(self) -> Path:
        """The absolute folder of the whole: of the sweep of a cell, of the run of its parts."""
        own = self.folder.absolute()
        whole = RunFiles(own.parent.parent)
        is_part = own.parent in (whole.controls, whole.groups) and whole.config.exists()
        return whole.home if is_part or self.cell.exists() else own

    @property
    def finished(self) -> bool:
        """Whether training has finished."""
        return self.result.exists()


@dataclass(frozen=True)
class Run(RunFiles):
    """A run: its folder, and what decides its result.

    Attributes:
        answer: digest of everything that decides the result.
        weights: SHA-256 of the surrogate's weights file, if it has one; earlier versions knew it
            by its place alone.
    """

    answer: str
    weights: str | None = None

    def require_weights(self, config: Config) -> None:
        """Check that the surrogate's weights are those that the run was trained with.

        Raises:
            UserError: the file of weights has changed, is missing or cannot be read.
        """
        if self.weights is not None and hash_weights(config.surrogate.weights) != self.weights:
            raise UserError(
                f"{config.surrogate.weights}: has changed since {self.folder} was trained; "
                "put the former file there, or train again"
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold an exclusive lock on the run.

        Raises:
            UserError: another process is training it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "training.lock", blocking=False))
            except Timeout:
                raise UserError(
                    f"{self.folder}: another process is training this run; wait for it, or end it"
                ) from None
            yield


def open_run(config: Config, identities: Sequence[DataIdentity], *, resume: bool) -> Run:
    """Open the run of `config` on `data`: new, unfinished or finished.

    Args:
        config: the settings of the run.
        identities: of its images: the current one, then those by which an older run knows them.
        resume: whether an unfinished run may be continued.

    Raises:
        UserError: the folder contains a run of another configuration or data set, or an unfinished
            one and `resume` is not set; or it is a file.
    """
    folder = config.run_folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; choose another one with output=...")
    data, weights = identities[0], hash_weights(config.surrogate.weights)
    run = Run(folder, answer_digest(config, data, weights), weights)
    if not run.config.exists():
        return run
    before, run = load_config(file=run.config), _read_run(run)
    if run.weights is None:
        weights = None
    earlier, now = answer(before, data, run.weights), answer(config, data, weights)
    changed = sorted(_differences(earlier, now))
    if changed:
        raise UserError(
            f"{folder}: contains a run with other settings ({', '.join(changed)}); "
            "choose another folder with output=..., or remove this one"
        )
    if run.answer not in {answer_digest(config, known, weights) for known in identities}:
        raise UserError(
            f"{folder}: its data set has changed; choose another folder with output=..."
        )
    if not run.finished and not resume:
        raise UserError(f"{folder}: contains an unfinished run; add --resume to continue it")
    return run


def create_run(run: Run, config: Config, data: DataIdentity) -> None:
    """Create the run's folder with the resolved configuration, unless it is there."""
    if not run.config.exists():
        weights = {} if run.weights is None else {"weights": run.weights}
        write_json(run.state, {"answer": run.answer, "data": data.fingerprint, **weights})
        config.save(run.config)


def load_run(folder: Path, place: str | None = None) -> tuple[Config, Run]:
    """Load a finished run.

    Args:
        folder: of the run.
        place: where its images are now, such as `folder:PATH`; None if they have not moved.

    Raises:
        UserError: `folder` contains no finished run.
    """
    files = RunFiles(folder)
    if place is not None and ":" not in place:
        raise UserError(f"{place}: a place needs its kind; write folder:{place} or npz:{place}")
    if not files.config.exists():
        raise UserError(
            f"{folder}: no run here (no config.yaml); name the folder that `train` wrote"
        )
    moved: dict[str, Any] = {"output": str(folder)}
    if place is not None:
        moved["data"] = {"name": place}
    config = load_config(file=files.config, settings=[moved])
    run = _read_run(files)
    if not run.finished:
        raise UserError(f"{folder}: training is not finished; run train --resume")
    return config, run


def _read_run(files: RunFiles) -> Run:
    state = read_json(files.state, dict)
    weights = state.get("weights")
    return Run(files.folder, str(state.get("answer")), weights and str(weights))


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Describe each value that differs between two nested mappings."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            inner = f"{key}.{name}" if key else name
            yield from _differences(before.get(name), after.get(name), inner)
    elif before != after:
        yield f"{key}: {format_yaml(before).splitlines()[0]} -> {after}"
