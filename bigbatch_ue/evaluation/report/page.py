"""The report of evaluations: a page that needs nothing but itself, and a table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from pydantic import BaseModel, ValidationError

from bigbatch_ue.evaluation.arms import Arm, load_arms, save_arms
from bigbatch_ue.evaluation.report.figures import picture_uri
from bigbatch_ue.evaluation.report.groups import TargetResults, distinct, group_by, seed_groups
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.protection.visibility import Visibility
from bigbatch_ue.reporting.statistics import Summary
from bigbatch_ue.runtime.errors import UserError

PAGE = "report.html"
RESULTS = "results.json"
ABOUT = "about.json"
PICTURE = "differences.png"
MOST_CLASSES = 20


class EvaluationMetadata(BaseModel):
    """What an evaluation folder tells of itself, `about.json`."""

    dataset: str
    command: str
    visibility: Visibility
    measured_on: str
    wanted: int
    notes: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class EvaluationFolder:
    """An evaluation folder, read."""

    about: EvaluationMetadata
    arms: list[Arm]
    picture: Image.Image


@dataclass(frozen=True)
class DatasetSection:
    """Everything about one data set."""

    name: str
    folders: Sequence[EvaluationFolder]
    arms: Sequence[Arm]

    @cached_property
    def blocks(self) -> list[TargetResults]:
        """Target by target."""
        return [
            TargetResults(target, seed_groups(arms))
            for target, arms in group_by(self.arms, lambda arm: arm.target).items()
        ]

    @property
    def about(self) -> EvaluationMetadata:
        """Of the first folder."""
        return self.folders[0].about

    @property
    def wanted(self) -> int:
        """Arms that were asked for."""
        return sum(folder.about.wanted for folder in self.folders)

    @property
    def done(self) -> int:
        """Arms of these that there are."""
        return sum(min(len(folder.arms), folder.about.wanted) for folder in self.folders)

    @property
    def notes(self) -> list[str]:
        """Remarks of all folders, each once."""
        return list(dict.fromkeys(note for f in self.folders for note in f.about.notes))

    def picture(self) -> str:
        """Of the first folder."""
        return picture_uri(self.folders[0].picture)


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write `out/report.html` about evaluation folders; of several, `out/results.json` as well.

    Folders of one data set, such as of runs with other seeds, are told of together.

    Args:
        folders: each with `results.json`, `about.json` and `differences.png`.
        out: a folder; it may be the only one of `folders`, then its results stay as they are.

    Returns:
        The path of the page.

    Raises:
        UserError: no folder, one that lacks a file or has a torn one, or `out` is one of several.
    """
    if not folders:
        raise UserError("no evaluation to report on")
    places = [folder.resolve() for folder in folders]
    inside = out.resolve() in places
    if inside and len(set(places)) > 1:
        raise UserError(f"{out}: one of the evaluations; its results would be overwritten")
    read = [read_folder(folder) for folder in dict.fromkeys(places)]
    sections = [
        DatasetSection(name, same, distinct(arm for folder in same for arm in folder.arms))
        for name, same in group_by(read, lambda folder: folder.about.dataset).items()
    ]
    text = _environment().get_template(PAGE).render(sections=sections, most_classes=MOST_CLASSES)
    if not inside:
        save_arms(out / RESULTS, [arm for section in sections for arm in section.arms])
    page = out / PAGE
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def read_folder(folder: Path) -> EvaluationFolder:
    """Read an evaluation folder.

    Raises:
        UserError: a file that is missing, torn or of another kind.
    """
    path = folder / ABOUT
    try:
        about = EvaluationMetadata.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: not what an evaluation writes ({where}: {first['msg']})"
        ) from None
    return EvaluationFolder(about, load_arms(folder / RESULTS), _picture(folder / PICTURE))


def percent(value: float | None) -> str:
    """A fraction in per cent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(
    summary: Summary, dash: str = "\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}", none: str = "–"
) -> str:
    """The 95 % interval of an accuracy, as far as it is possible, in per cent."""
    if summary.low is None or summary.high is None:
        return none
    return dash.join((percent(max(summary.low, 0)), percent(min(summary.high, 1))))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bigbatch_ue.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "yaml": _yaml}
    return environment


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False)


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(require_file(path), formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # PIL meets a broken file with nearly any of them
        raise UserError(f"{path}: not a readable picture ({error})") from None
