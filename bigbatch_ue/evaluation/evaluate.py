"""Train the networks that a scraper would, and test them on clean images: every arm by one recipe.

What one target needs hours for is done once: an arm is kept in `<data.root>/targets` under a digest
of what decides its answer, whoever asks for it, so that an interrupted evaluation continues, ranks
and jobs share the arms among them, and runs at other batch sizes share their controls.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from bigbatch_ue import __version__
from bigbatch_ue.config.load import revise
from bigbatch_ue.config.schema import ArmName, Config
from bigbatch_ue.data.decoded import DataSet, prepare
from bigbatch_ue.evaluation.arms import Arm, Case, cases, load_arms, save_arms
from bigbatch_ue.evaluation.countermeasures import applies
from bigbatch_ue.evaluation.external_images import load_foreign
from bigbatch_ue.evaluation.report.page import ABOUT, PICTURE, RESULTS, write_report
from bigbatch_ue.evaluation.report.pictures import examples, picture_grid
from bigbatch_ue.evaluation.report.tensorboard import write_board
from bigbatch_ue.evaluation.subject import Subject, protected_part, train_arm
from bigbatch_ue.files.atomic import homeless, read_json, write_json
from bigbatch_ue.networks.surrogate import extract_features
from bigbatch_ue.protection.protect import (
    MANIFEST,
    Perturbations,
    load_perturbations,
    protected_images,
)
from bigbatch_ue.protection.visibility import Visibility, visibility
from bigbatch_ue.runs.folder import Run, load_run
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.engine import kind_of, launch
from bigbatch_ue.training.train import surrogate_of, train_on

PICTURES = 10
MEASURED = 1000


def evaluate(
    run_folder: Path,
    *,
    target: str | None = None,
    overrides: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
) -> list[Arm]:
    """Judge the perturbations of a finished run by the targets that its `evaluation` names.

    Writes `evaluation/` in the run's folder: `results.json` after each arm; at the end TensorBoard,
    pictures and `report.html`. Under a launcher, ranks share the arms, or each batch.

    Args:
        run_folder: of a finished run.
        target: a preset of `config.TARGETS`, by default the run's own target.
        overrides: `key=value` settings of `target`, `evaluation` and `data.root`.
        shard: (i, n) with 1 <= i <= n: do the i-th of n parts of the arms.
        download: allow the data set to be downloaded.
        command: what the user typed, for the report.

    Returns:
        The arms that were asked for, of all shards, as far as they are finished.

    Raises:
        UserError: no finished run, a data set that has changed, settings that do not fit, training
            that diverges.
    """
    config, run = load_run(run_folder)
    config = revise(config, target, overrides)
    accelerator = launch()
    try:
        subject = _of_run(config, run, accelerator, download)
        return judge(subject, run.folder / "evaluation", shard, accelerator, command)
    finally:
        accelerator.end_training()


def evaluate_foreign(
    config: Config,
    place: str,
    *,
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
) -> list[Arm]:
    """Judge images that another program has perturbed, as `evaluate` does.

    Args:
        config: its `data` is the clean original; `target` and `evaluation` say what is trained. The
            folder is `output`, or one below `runs/` named after both.
        place: `folder:PATH` or `npz:PATH` of the perturbed train images, as for `load_foreign`.
        shard: as for `evaluate`.
        download: allow the clean data set to be downloaded.
        command: what the user typed, for the report.

    Returns:
        As for `evaluate`.

    Raises:
        UserError: images that do not belong together, and as for `evaluate`.
    """
    accelerator = launch()
    try:
        data = prepare(config.data, download=download)
        perturbed = load_foreign(place, data, config.data)
        change = (perturbed.astype(np.float32) - data.train.images) / np.float32(255)
        learnt = Perturbations(change, np.arange(len(change)), float(np.abs(change).max()))
        subject = Subject(
            ArmName.PROTECTED,
            config,
            data,
            learnt,
            data.train.labels,
            lambda: _flat(data.train.images),
        )
        name = f"{config.data.title}-{Path(place.partition(':')[2] or place).stem}"
        folder = (config.output or Path("runs") / name) / "evaluation"
        return judge(subject, folder, shard, accelerator, command)
    finally:
        accelerator.end_training()


def judge(
    subject: Subject,
    folder: Path,
    shard: tuple[int, int],
    accelerator: Accelerator,
    command: Sequence[str] = (),
) -> list[Arm]:
    """Train what is missing of this shard's arms, then report on all that are there."""
    if len(subject.data.classes) < 2:
        raise UserError(f"{subject.data.name} has a single class: nothing for a target to learn")
    wanted, notes = _wanted(subject)
    index, count = shard
    mine = wanted[index - 1 :: count]
    together = subject.config.evaluation.share == "batches" and accelerator.num_processes > 1
    if together:
        _train_together(mine, subject, folder, accelerator)
    else:
        _train_apart(mine, subject, folder, accelerator.device)
    accelerator.wait_for_everyone()
    ranks = accelerator.num_processes if together else 1
    arms = [arm for case in wanted if (arm := _finished(case, subject, ranks))]
    if accelerator.is_main_process and arms:
        about = {"wanted": len(wanted), "notes": notes, "command": shlex.join(command)}
        _report(folder, subject, arms, about)
    accelerator.wait_for_everyone()
    return arms


def _of_run(config: Config, run: Run, accelerator: Accelerator, download: bool) -> Subject:
    data = prepare(config.data, download=download)
    learnt = load_perturbations(config, run, data)
    result = read_json(run.result, dict)

    def features() -> NDArray[np.float32]:
        surrogate = surrogate_of(config, data, accelerator.device)
        return extract_features(surrogate, data.train.images, accelerator.device).numpy()

    control = None
    asked = ArmName.RANDOM_SURROGATE in config.evaluation.arms
    if asked and config.surrogate.weights != "random":
        control = _random_surrogate(config, run, data, accelerator)
    facts = {
        "run_seed": config.seed,
        "effective_batch": result["effective_batch"],
        "optimizer_steps": result["optimizer_steps"],
    }
    return Subject(ArmName.UC, config, data, learnt, learnt.assignment, features, control, facts)


def _random_surrogate(
    config: Config, run: Run, data: DataSet, accelerator: Accelerator
) -> Perturbations:
    """The perturbations of the same run with a surrogate of random weights, trained if need be."""
    output = run.folder / "controls" / ArmName.RANDOM_SURROGATE
    surrogate = config.surrogate.model_copy(update={"weights": "random"})
    config = config.model_copy(update={"output": output, "surrogate": surrogate})
    output.parent.mkdir(exist_ok=True)
    lock = FileLock(output.with_suffix(".lock")) if accelerator.is_main_process else nullcontext()
    with lock:
        if not Run(output, "").finished:
            train_on(accelerator, config, resume=True)
            accelerator.free_memory()
    config, control = load_run(output)
    return load_perturbations(config, control, data)


def _wanted(subject: Subject) -> tuple[list[Case], list[str]]:
    """The arms that are asked for and make sense, and why others do not."""
    wanted, notes = [], []
    channels = subject.data.train.images.shape[1]
    for case in cases(subject.config.evaluation, subject.name):
        if not applies(case.countermeasure, channels):
            notes.append(f"{case.countermeasure}: the images are grey already")
        elif case.arm is ArmName.RANDOM_SURROGATE and subject.control is None:
            notes.append("random surrogate: this run's own surrogate is random")
        else:
            wanted.append(case)
    return wanted, list(dict.fromkeys(notes))


def _train_apart(
    mine: Sequence[Case], subject: Subject, folder: Path, device: torch.device
) -> None:
    """Train arms that no other process has or is at; then wait for those that others are at."""
    waiting = list(enumerate(mine, 1))
    for blocking in (False, True):
        now, waiting = waiting, []
        for number, case in now:
            path = _place(case, subject)
            try:
                with FileLock(path.with_suffix(".lock"), blocking=blocking):
                    if not path.exists():
                        arm = train_arm(case, subject, device, number=f"{number}/{len(mine)}")
                        save_arms(path, [arm])
            except Timeout:
                waiting.append((number, case))
            else:
                _record(folder, case, subject)


def _train_together(
    mine: Sequence[Case], subject: Subject, folder: Path, accelerator: Accelerator
) -> None:
    """Train arm after arm, all ranks the same one."""
    if kind_of(accelerator) != "ddp":
        raise UserError(
            "evaluation.share=batches needs launchers/accelerate/ddp.yaml; or use share=arms"
        )
    ranks = accelerator.num_processes
    for number, case in enumerate(mine, 1):
        path = _place(case, subject, ranks)
        if broadcast_object_list([not path.exists()])[0]:
            place = f"{number}/{len(mine)}"
            arm = train_arm(case, subject, accelerator.device, number=place, ranks=accelerator)
            if accelerator.is_main_process:
                save_arms(path, [arm])
        if accelerator.is_main_process:
            _record(folder, case, subject, ranks)


def _place(case: Case, subject: Subject, ranks: int = 1) -> Path:
    """The file of an arm, whether it is there or not."""
    kept = subject.config.data.root / "targets"
    kept.mkdir(parents=True, exist_ok=True)
    return kept / f"{subject.inputs(case, ranks)}.json"


def _finished(case: Case, subject: Subject, ranks: int = 1) -> Arm | None:
    """The arm as this evaluation tells it, if it has been trained."""
    path = _place(case, subject, ranks)
    if not path.exists():
        return None
    found = load_arms(path)
    if len(found) != 1:
        raise UserError(f"{path}: expected one arm, found {len(found)}; remove it")
    return subject.own(found[0])


def _record(folder: Path, case: Case, subject: Subject, ranks: int = 1) -> None:
    """Put a finished arm into `results.json`, in the place of an older one of the same name."""
    arm = _finished(case, subject, ranks)
    assert arm is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    with FileLock(path.with_suffix(".lock")):
        kept = load_arms(path) if path.exists() else []
        if arm not in kept:
            save_arms(path, [old for old in kept if old.key != arm.key] + [arm])


def _report(folder: Path, subject: Subject, arms: Sequence[Arm], about: dict[str, Any]) -> None:
    """Write whatever is shown of the results that the folder holds."""
    config, data = subject.config, subject.data
    about |= _visibility(folder, subject)
    with FileLock((folder / RESULTS).with_suffix(".lock")):
        kept, keys = load_arms(folder / RESULTS), [arm.key for arm in arms]
        sorted_arms = [*(arm for arm in kept if arm.key not in keys), *arms]
        if sorted_arms != kept:
            save_arms(folder / RESULTS, sorted_arms)
        for fraction in config.evaluation.fractions:
            for seed in config.evaluation.seeds if fraction < 1 else ():
                chosen = protected_part(len(data.train), fraction, seed).tolist()
                write_json(folder / f"protected-{fraction:g}-s{seed}.json", chosen)
        settings = config.model_dump_json(include={"seed", "data", "target", "evaluation"})
        versions = {"bigbatch_ue": __version__, "torch": torch.__version__}
        about |= {
            "dataset": config.data.title,
            "settings": json.loads(homeless(settings)),
            "versions": versions,
        }
        write_json(folder / ABOUT, about)
        _pictures(folder / PICTURE, subject)
        write_board(folder / "tensorboard", sorted_arms)
        page = write_report([folder], folder)
    print(f"report: {page}", file=sys.stderr)


def _visibility(folder: Path, subject: Subject) -> dict[str, Any]:
    """How much the images were changed: as measured on the written files, if there are any."""
    manifest = folder.parent / "protected" / MANIFEST
    if manifest.exists():
        try:
            measured = read_json(manifest, dict)["report"]["visibility"]
            TypeAdapter(Visibility).validate_python(measured)
        except (KeyError, TypeError, ValidationError):
            raise UserError(
                f"{manifest}: damaged; remove {manifest.parent}, or protect anew"
            ) from None
        return {"visibility": measured, "measured_on": "the written files"}
    images = subject.data.train.images
    some = np.linspace(0, len(images) - 1, min(len(images), MEASURED)).astype(np.int64)
    pairs = zip(images[some], _protected(subject, some), strict=True)
    return {"visibility": asdict(visibility(pairs)), "measured_on": "the images at training size"}


def _pictures(path: Path, subject: Subject) -> None:
    """Draw one image of each group: clean, protected, and the difference."""
    chosen = examples(subject.groups, PICTURES)
    data = subject.data
    kind = "cluster" if subject.name is ArmName.UC else "class"
    titles = [
        f"{kind} {group}\n{data.classes[label]}"
        for group, label in zip(subject.groups[chosen], data.train.labels[chosen], strict=True)
    ]
    batch = subject.facts.get("effective_batch")
    heading = subject.config.data.title + (f", effective batch {batch}" if batch else "")
    originals = data.train.images[chosen]
    picture_grid(path, originals, _protected(subject, chosen), titles, heading)


def _protected(subject: Subject, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    learnt = subject.learnt
    images = subject.data.train.images[chosen]
    return protected_images(images, learnt.delta, learnt.assignment[chosen], learnt.eps)


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as rows of float32 in [0, 1]: features of a set that has no surrogate."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
