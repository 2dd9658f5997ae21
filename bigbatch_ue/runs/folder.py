"""One run, one folder: configuration, metrics, checkpoints, result."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import digest, read_json, write_json
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

    @property
    def metrics(self) -> Path:
        """JSON lines, one per optimizer step (`metrics_file`)."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states of an unfinished run (`checkpoints`)."""
        return self.folder / "checkpoints"

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
    before = load_config(file=saved)
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
    config = load_config(
        file=folder / "config.yaml", overrides=[f"output={json.dumps(str(folder))}"]
    )
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
