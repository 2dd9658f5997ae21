"""Files of an evaluation: results, report page, pictures, TensorBoard."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from bigbatch_ue import __version__
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import Arm, load_arms, save_arms
from bigbatch_ue.evaluation.report.figures import first_of_each_group, picture_grid
from bigbatch_ue.evaluation.report.page import ABOUT, PICTURE, RESULTS, write_report
from bigbatch_ue.evaluation.report.tensorboard import write_tensorboard
from bigbatch_ue.evaluation.subject import Subject, protected_part
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.protection.perturbations import protected_images
from bigbatch_ue.protection.protect import MANIFEST
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError

PICTURES = 10
MEASURED = 1000


def write_outputs(
    folder: Path, subject: Subject, arms: Sequence[Arm], about: dict[str, Any]
) -> None:
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
            "settings": json.loads(hide_home(settings)),
            "versions": versions,
        }
        write_json(folder / ABOUT, about)
        _pictures(folder / PICTURE, subject)
        write_tensorboard(folder / "tensorboard", sorted_arms)
        page = write_report([folder], folder)
    note(f"report: {page}")


def _visibility(folder: Path, subject: Subject) -> dict[str, Any]:
    """How much the images were changed: as measured on the written files, if there are any."""
    manifest = RunFiles(folder.parent).protected / MANIFEST
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
    return {
        "visibility": asdict(measure_visibility(pairs)),
        "measured_on": "the images at training size",
    }


def _pictures(path: Path, subject: Subject) -> None:
    """Draw one image of each group: clean, protected, and the difference."""
    chosen = first_of_each_group(subject.groups, PICTURES)
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
