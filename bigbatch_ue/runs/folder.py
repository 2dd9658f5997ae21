"""One run, one folder: configuration, metrics, checkpoints, result."""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from bigbatch_ue.config.load import load
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import digest, parse_json, read_json, write_json
from bigbatch_ue.files.paths import regular
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runs.checkpoints import NEW, Checkpoint
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.runtime.errors import UserError


@dataclass(frozen=True)
class Run:
    """The folder of a run, and the digest of what decides its answer."""

    folder: Path
    answer: str

    @property
    def clusters(self) -> Path:
        """safetensors: assignment, centres, permutation."""
        return self.folder / "clusters.safetensors"

    @property
    def perturbations(self) -> Path:
        """safetensors: `perturbations` [p, C, H, W]."""
        return self.folder / "perturbations.safetensors"

    @property
    def result(self) -> Path:
        """JSON: what was done; exists once the run has finished."""
        return self.folder / "result.json"

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.result.exists()

    # -- metrics ---------------------------------------------------------------------------------

    @property
    def metrics(self) -> Path:
        """JSON lines, one per optimizer step."""
        return self.folder / "metrics.jsonl"

    def forget_metrics_from(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        kept = [line for line, content in self._lines() if content["step"] < step]
        with atomic_file(self.metrics) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def noise(self, space: str, rows: int) -> NDArray[np.float64]:
        """Estimates of the gradient's noise, [2, T, p]: tr(Sigma) and |G|^2; NaN where none."""
        nothing = {name: [None] * rows for name in Moments._fields}
        try:
            found = [line.get("noise", {}).get(space, nothing) for _, line in self._lines()]
            moments = [[moment[name] for moment in found] for name in Moments._fields]
            shape = (len(Moments._fields), len(found), rows)
            return np.array(moments, dtype=np.float64).reshape(shape)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{self.metrics}: noise is not readable ({error})") from None

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        """The metrics' lines, each as it is and what it says, up to the first torn one."""
        if not self.metrics.exists():
            return []
        found = []
        for line in regular(self.metrics).read_bytes().splitlines():
            try:
                content = parse_json(line)
                text = line.decode()
            except ValueError:
                break
            if not isinstance(content, dict) or not isinstance(content.get("step"), int):
                break
            found.append((text, content))
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that trains this run.

        Raises:
            UserError: another one is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "training.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.folder}: another process is training this run; wait for it, or end it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    # -- checkpoints -----------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the states that training can go on from."""
        return self.folder / "checkpoints"

    def save_checkpoint(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write `checkpoint`, then remove all but the newest `keep`, and damaged ones beyond it."""
        path = self.checkpoints / f"step-{checkpoint.step:08d}.safetensors"
        about = {"step": checkpoint.step, "skipped": checkpoint.skipped, "answer": self.answer}
        write_tensors(path, checkpoint.state, about)
        everything = self._checkpoints()
        here = everything.index(path) + 1
        for other in everything[: max(here - keep, 0)] + everything[here:]:
            other.unlink()

    def load_checkpoint(self) -> Checkpoint:
        """The newest checkpoint that is whole; one of step 0 where there is none.

        Each damaged one is named in a warning.

        Raises:
            UserError: it belongs to another run.
        """
        for path in reversed(self._checkpoints()):
            try:
                state, about = read_tensors(path)
                found = Checkpoint(int(about["step"]), state, int(about.get("skipped", 0)))
            except (UserError, KeyError, TypeError, ValueError) as error:
                reason = str(error) if isinstance(error, UserError) else f"{path}: no checkpoint"
                warnings.warn(f"{reason}; going on from the one before", stacklevel=2)
                continue
            if about.get("answer") != self.answer:
                raise UserError(f"{path}: belongs to another configuration or data set")
            return found
        return NEW

    def remove_checkpoints(self) -> None:
        """Remove all checkpoints; they only serve an unfinished run."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.safetensors"))


def open_run(config: Config, fingerprint: str, *, resume: bool) -> Run:
    """The run of `config` on the data of `fingerprint`: new, to be continued, or finished.

    Raises:
        UserError: the folder holds a run of another configuration or data set, or an unfinished one
            and `resume` is not set.
    """
    folder = config.run_folder
    run = Run(folder, digest([config.answer(), fingerprint]))
    saved = folder / "config.yaml"
    if not saved.exists():
        return run
    before = load(file=saved)
    changed = sorted(_differences(before.answer(), config.answer()))
    if changed:
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed)}): "
            "choose another folder with output=..., or remove it"
        )
    state = read_json(folder / "run.json", dict)
    if state.get("answer") != run.answer:
        raise UserError(f"{folder}: its data set has changed since; choose another output=...")
    if not run.finished and not resume:
        raise UserError(f"{folder} holds an unfinished run: add --resume to continue it")
    return run


def create_run(run: Run, config: Config, fingerprint: str) -> None:
    """Make the run's folder, with the resolved configuration."""
    if not (run.folder / "config.yaml").exists():
        write_json(run.folder / "run.json", {"answer": run.answer, "data": fingerprint})
        config.save(run.folder / "config.yaml")


def load_run(folder: Path) -> tuple[Config, Run]:
    """A finished run.

    Raises:
        UserError: there is no finished run in `folder`.
    """
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: no run here (no config.yaml)")
    config = load(file=folder / "config.yaml", overrides=[f"output={json.dumps(str(folder))}"])
    run = Run(folder, str(read_json(folder / "run.json", dict).get("answer")))
    if not run.finished:
        raise UserError(f"{folder}: training is not finished; continue it with --resume")
    return config, run


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            inner = f"{key}.{name}" if key else name
            yield from _differences(before.get(name), after.get(name), inner)
    elif before != after:
        yield f"{key}: {yaml.safe_dump(before).split(chr(10))[0]} -> {after}"
