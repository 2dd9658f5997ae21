"""The report of evaluations: one self-contained page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ValidationError

from bigbatch_ue.evaluation.arms import Arm, load_arms, save_arms
from bigbatch_ue.evaluation.report.charts import learning_curves, partial_protection
from bigbatch_ue.evaluation.report.groups import (
    TargetResults,
    distinct,
    group_by,
    results_by_target,
)
from bigbatch_ue.files.formats import digest, first_problem, read_json
from bigbatch_ue.files.paths import require_file, short_names
from bigbatch_ue.protection.visibility import Visibility
from bigbatch_ue.reporting.differences import describe_differences
from bigbatch_ue.reporting.page import page_environment, write_page
from bigbatch_ue.reporting.statistics import Summary
from bigbatch_ue.reporting.style import figure_uri, picture_uri
from bigbatch_ue.reporting.words import DASH, interval
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.result import Agreement
from bigbatch_ue.runtime.errors import UserError

PAGE = "report.html"
RESULTS = "results.json"
ABOUT = "about.json"
PICTURE = "differences.png"
_MAX_CLASSES = 20
"""Largest number of classes whose confusion matrices are on the page."""


class EvaluationMetadata(BaseModel):
    """Contents of `about.json`: metadata of one evaluation.

    Evaluations of earlier versions know neither the names of the classes, nor the digest of the
    images, nor the origin of the perturbations.
    """

    dataset: str
    command: str
    visibility: Visibility
    measured_on: str
    wanted: int
    notes: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    agreement: Agreement | None = None
    classes: list[str] = []
    images: str = ""
    origin: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """The setting `data.name`."""
        return str(self.settings.get("data", {}).get("name", self.dataset))


@dataclass(frozen=True)
class EvaluationFolder:
    """Contents of an evaluation folder."""

    about: EvaluationMetadata
    arms: list[Arm]
    picture: Image.Image


@dataclass(frozen=True)
class DatasetSection:
    """All evaluations of perturbations of one data set that differ in seed and batch at most."""

    name: str
    folders: Sequence[EvaluationFolder]
    arms: Sequence[Arm]

    @cached_property
    def results(self) -> list[TargetResults]:
        """Results of each target network."""
        return results_by_target(self.arms)

    @property
    def about(self) -> EvaluationMetadata:
        """Metadata of the first folder."""
        return self.folders[0].about

    @property
    def agreements(self) -> list[Agreement]:
        """Different agreements of clusters and classes of all folders."""
        found = [folder.about.agreement for folder in self.folders]
        return list(dict.fromkeys(agreement for agreement in found if agreement))

    @property
    def picture(self) -> Image.Image:
        """Picture of the first folder."""
        return self.folders[0].picture

    @property
    def wanted(self) -> int:
        """Number of requested arms."""
        return sum(folder.about.wanted for folder in self.folders)

    @property
    def done(self) -> int:
        """Number of finished arms."""
        return sum(min(len(folder.arms), folder.about.wanted) for folder in self.folders)

    @property
    def notes(self) -> list[str]:
        """Different notes of all folders."""
        return list(dict.fromkeys(note for f in self.folders for note in f.about.notes))


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write `out/report.html` about evaluation folders; for several, also `out/results.json`.

    Folders of one data set, such as those of runs with different seeds, share one section.

    Args:
        folders: evaluation folders, each with `results.json`, `about.json` and `differences.png`,
            or runs that contain one.
        out: output folder; it may be the only one of `folders`, whose results stay as they are.

    Returns:
        The path of the page.

    Raises:
        UserError: there is no folder, a file in one is missing or damaged, or `out` is one of
            several folders.
    """
    if not folders:
        raise UserError("report: no evaluation folders; name at least one")
    paths = [_evaluation_in(folder).resolve() for folder in folders]
    inside = out.resolve() in paths
    if inside and len(set(paths)) > 1:
        raise UserError(
            f"{out}: is one of the evaluation folders, its results would be overwritten; "
            "choose another output folder"
        )
    contents = [read_folder(folder) for folder in dict.fromkeys(paths)]
    sections = list(_sections(contents))
    if not inside:
        save_arms(out / RESULTS, [arm for section in sections for arm in section.arms])
    environment = page_environment(
        "bigbatch_ue.evaluation.report",
        interval=accuracy_interval,
        figure_uri=figure_uri,
        picture_uri=picture_uri,
    )
    content = {
        "sections": sections,
        "max_classes": _MAX_CLASSES,
        "learning_curves": learning_curves,
        "partial_protection": partial_protection,
    }
    page = out / PAGE
    write_page(page, environment, content)
    return page


def _evaluation_in(folder: Path) -> Path:
    """Return the evaluation folder of a run, or else `folder`, which is one itself."""
    own = RunFiles(folder).evaluation
    return own if own.is_dir() and not (folder / ABOUT).exists() else folder


def _sections(folders: Sequence[EvaluationFolder]) -> Iterator[DatasetSection]:
    """Group evaluations by their images, then by the origin of their perturbations.

    Different groups get different names.
    """
    known = {folder.about.place: folder.about.images for folder in folders if folder.about.images}

    def images_of(folder: EvaluationFolder) -> str:
        about = folder.about
        return about.images or known.get(about.place, about.place)

    for name, alike in group_by(folders, lambda folder: folder.about.dataset).items():
        sets = group_by(alike, images_of)
        names = [name]
        if len(sets) > 1:
            names = short_names([same[0].about.place for same in sets.values()])
        if len(set(names)) < len(sets):
            names = [f"{name}-{images}" for images in sets]
        for own, same in zip(names, sets.values(), strict=True):
            origins = list(group_by(same, lambda folder: digest(folder.about.origin)).values())
            differences = describe_differences([each[0].about.origin for each in origins])
            for each, difference in zip(origins, differences, strict=True):
                title = ", ".join(filter(None, (own, difference)))
                found = (replace(arm, dataset=title) for folder in each for arm in folder.arms)
                yield DatasetSection(title, each, distinct(found))


def read_folder(folder: Path) -> EvaluationFolder:
    """Read an evaluation folder.

    Raises:
        UserError: a file is missing, damaged or of another kind.
    """
    about = read_metadata(folder)
    return EvaluationFolder(about, load_arms(folder / RESULTS), _read_picture(folder / PICTURE))


def read_metadata(folder: Path) -> EvaluationMetadata:
    """Read `about.json` of an evaluation folder.

    Raises:
        UserError: it is missing, damaged or of another kind.
    """
    path = folder / ABOUT
    try:
        return EvaluationMetadata.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path}: not the metadata of an evaluation ({first_problem(error)}); "
            "evaluate the run again"
        ) from None


def accuracy_interval(
    accuracy: Summary,
    between: str = "\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}",
    unknown: str = DASH,
) -> str:
    """Return the interval of a mean accuracy in per cent, clipped to 0 and 100."""
    if accuracy.low is None or accuracy.high is None:
        return unknown
    return interval(max(accuracy.low, 0), min(accuracy.high, 1), between=between)


def _read_picture(path: Path) -> Image.Image:
    if not path.exists():
        raise UserError(
            f"{path}: not drawn, as by a sweep; run `bigbatch-ue evaluate` again for this run"
        )
    try:
        with Image.open(require_file(path), formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for a damaged file
        raise UserError(
            f"{path}: cannot be read as an image ({error}); evaluate the run again"
        ) from None
