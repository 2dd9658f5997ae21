"""Files of an evaluation besides its results: report page, pictures, trackers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from bigbatch_ue import __version__
from bigbatch_ue.config.names import ArmName, TrackerName
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.evaluation.arms import Arm, load_arms, save_arms
from bigbatch_ue.evaluation.report.page import (
    ABOUT,
    PICTURE,
    RESULTS,
    read_metadata,
    write_report,
)
from bigbatch_ue.evaluation.report.pictures import first_of_each_group, picture_grid
from bigbatch_ue.evaluation.report.tensorboard import write_tensorboard
from bigbatch_ue.evaluation.report.tracking import track_arms
from bigbatch_ue.evaluation.subject import Subject, protected_indices
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.protection.perturbations import protected_images
from bigbatch_ue.protection.protect import MANIFEST
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.reporting.words import span
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError

MAX_PICTURES = 10
MAX_MEASURED = 1000


def write_outputs(
    folder: Path, subject: Subject, arms: Sequence[Arm], about: dict[str, Any], *, page: bool
) -> None:
    """Write everything that shows the results in `folder`: trackers and, if wanted, the page.

    Args:
        folder: evaluation folder with `results.json`.
        subject: the evaluated perturbations.
        arms: the requested arms; they come last in `results.json`.
        about: the part of `about.json` that is already known.
        page: draw pictures and write the report.
    """
    config, data = subject.config, subject.data
    about |= _measure_visibility(folder, subject)
    with locked((folder / RESULTS).with_suffix(".lock")):
        saved, keys = load_arms(folder / RESULTS), [arm.key for arm in arms]
        sorted_arms = [*(arm for arm in saved if arm.key not in keys), *arms]
        if sorted_arms != saved:
            save_arms(folder / RESULTS, sorted_arms)
        for fraction in config.evaluation.fractions:
            for seed in config.evaluation.seeds if fraction < 1 else ():
                indices = protected_indices(len(data.train), fraction, seed).tolist()
                write_json(folder / f"protected-{fraction:g}-s{seed}.json", indices)
        settings = config.model_dump_json(include={"seed", "data", "target", "evaluation"})
        about |= {
            "dataset": config.data.shown_as,
            "classes": data.classes,
            "images": data.identity.fingerprint,
            "agreement": asdict(subject.agreement) if subject.agreement else None,
            "origin": json.loads(hide_home(json.dumps(subject.origin))),
            "settings": json.loads(hide_home(settings)),
            "versions": {"bigbatch_ue": __version__, "torch": torch.__version__},
        }
        about["notes"] = list(dict.fromkeys([*_earlier_notes(folder), *about["notes"]]))
        write_json(folder / ABOUT, about)
        if page:
            _draw_pictures(folder / PICTURE, subject)
        if TrackerName.TENSORBOARD in config.tracking:
            write_tensorboard(folder / "tensorboard", sorted_arms)
        if page:
            note(f"report: {write_report([folder], folder)}")
        track_arms(folder, sorted_arms, config.tracking)


def _earlier_notes(folder: Path) -> list[str]:
    """Read why earlier calls left arms out, which holds for this one too."""
    try:
        return read_metadata(folder).notes
    except UserError:  # missing or damaged, and written anew
        return []


def _measure_visibility(folder: Path, subject: Subject) -> dict[str, Any]:
    """Read the visibility of the written files if there are any, else measure it on samples."""
    manifest = RunFiles(folder.parent).protected / MANIFEST
    if manifest.exists():
        try:
            visibility = read_json(manifest, dict)["report"]["visibility"]
            TypeAdapter(Visibility).validate_python(visibility)
        except (KeyError, TypeError, ValidationError):
            raise UserError(
                f"{manifest}: damaged; delete {manifest.parent}, or protect again"
            ) from None
        return {"visibility": visibility, "measured_on": "the written files"}
    images = subject.data.train.images
    sample = np.linspace(0, len(images) - 1, min(len(images), MAX_MEASURED)).astype(np.int64)
    pairs = zip(images[sample], _protect_sample(subject, sample), strict=True)
    return {
        "visibility": asdict(measure_visibility(pairs)),
        "measured_on": "the images at training size",
    }


def _draw_pictures(path: Path, subject: Subject) -> None:
    """Draw one image of each image group: clean, protected, and the difference."""
    sample = first_of_each_group(subject.image_groups, MAX_PICTURES)
    data = subject.data
    kind = "cluster" if subject.name is ArmName.UC else "class"
    titles = [
        f"{kind} {group}\n{data.classes[label]}"
        for group, label in zip(
            subject.image_groups[sample], data.train.labels[sample], strict=True
        )
    ]
    facts, heading = subject.facts, subject.config.data.shown_as
    if facts:
        heading += f", effective batch {span((facts['smallest_batch'], facts['effective_batch']))}"
    originals = data.train.images[sample]
    picture_grid(path, originals, _protect_sample(subject, sample), titles, heading)


def _protect_sample(subject: Subject, sample: NDArray[np.int64]) -> Pixels:
    perturbations = subject.perturbations
    assignment = perturbations.assignment[sample]
    images = subject.data.train.images[sample]
    return protected_images(images, perturbations.delta, assignment, perturbations.eps)
