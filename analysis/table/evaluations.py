"""Evaluations that are compared with one another: runs, evaluation folders, and results alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES, Arm, arm_title, load_arms
from bigbatch_ue.evaluation.report.page import ABOUT, RESULTS, EvaluationMetadata, read_metadata
from bigbatch_ue.files.formats import first_problem
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError

RESERVED = (*set(ARM_NAMES.values()), "UC")
"""Names that methods have by themselves."""


class _Generator(BaseModel):
    eps: float


class _Origin(BaseModel):
    """The settings of a run that are read one by one."""

    generator: _Generator
    clusters: dict[str, Any]
    surrogate: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The results of one evaluation.

    Attributes:
        source: the place as the user named it.
        name: name that the user gave to the evaluated perturbations; empty if none.
        arms: at least one.
        about: metadata; None where only the results are at hand.
    """

    source: str
    name: str
    arms: Sequence[Arm]
    about: EvaluationMetadata | None

    @property
    def origin(self) -> dict[str, Any]:
        """Settings of the run that made the perturbations; empty if they are unknown."""
        return self.about.origin if self.about else {}

    @property
    def foreign(self) -> str:
        """Place of the images of another program; empty for perturbations of a run."""
        return str(self.origin.get("protected", ""))

    @property
    def is_foreign(self) -> bool:
        """Whether another program perturbed the images."""
        return any(arm.arm == ArmName.PROTECTED for arm in self.arms) or bool(self.foreign)


def read_evaluations(places: Sequence[str]) -> list[Evaluation]:
    """Read each evaluation once.

    Args:
        places: `PATH` or `NAME=PATH`, each of a run, an evaluation folder, a folder with a
            `results.json`, or such a file.

    Raises:
        UserError: a place has no results, they are damaged, or a name is taken.
    """
    found: dict[Path, Evaluation] = {}
    for place in places:
        name, path = _split(place)
        results = _results_in(path)
        known = found.get(results.resolve())
        if known and known.name != name:
            raise UserError(f"{path}: is named twice, {known.name!r} and {name!r}; name it once")
        found[results.resolve()] = _read(name, path, results)
    _require_one_kind(list(found.values()))
    return list(found.values())


def _split(place: str) -> tuple[str, Path]:
    name, equals, rest = place.partition("=")
    if not equals or Path(place).exists():
        return "", Path(place)
    if not name.strip() or name in RESERVED:
        raise UserError(f"{place}: {name!r} cannot name a method; give it another name")
    return name, Path(rest)


def _results_in(path: Path) -> Path:
    if path.is_dir():
        own = RunFiles(path).evaluation_results
        found = own if own.exists() else path / RESULTS
        if found.exists():
            return found
        remedy = "name another folder"
        if RunFiles(path).config.exists():
            remedy = f"run `bigbatch-ue evaluate {path}`"
        raise UserError(f"{path}: no {RESULTS} of an evaluation here; {remedy}")
    return path


def _read(name: str, path: Path, results: Path) -> Evaluation:
    arms = load_arms(results)
    if not arms:
        raise UserError(f"{results}: no results yet; wait for the first arm")
    for arm in arms:
        shares = (arm.final_accuracy, arm.balanced_accuracy, arm.auc)
        if not all(0 <= share <= 1 for share in shares) or not np.sum(arm.confusion):
            raise UserError(
                f"{results}: {arm_title(arm)}: accuracies are not those of test images; evaluate "
                "again"
            )
    has_about = results.name == RESULTS and (results.parent / ABOUT).exists()
    about = read_metadata(results.parent) if has_about else None
    if about and about.origin and "protected" not in about.origin:
        try:
            _Origin.model_validate(about.origin)
        except ValidationError as error:
            raise UserError(
                f"{results.parent / ABOUT}: not the origin of a run's perturbations "
                f"({first_problem(error)}); evaluate the run again"
            ) from None
    return Evaluation(hide_home(path.as_posix()), name, arms, about)


def _require_one_kind(evaluations: Sequence[Evaluation]) -> None:
    """Refuse a name for both perturbations of runs and images of another program."""
    for name in {evaluation.name for evaluation in evaluations} - {""}:
        kinds = {evaluation.is_foreign for evaluation in evaluations if evaluation.name == name}
        if len(kinds) > 1:
            raise UserError(
                f"{name}: names perturbations of a run as well as images of another program; give "
                "each a name of its own"
            )
