"""Methods of protection and the tasks they are compared on, each named after what sets it apart."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from analysis.table.evaluations import RESERVED, Evaluation
from bigbatch_ue.config.names import ArmName, Grouping
from bigbatch_ue.evaluation.arms import ARM_NAMES, Arm
from bigbatch_ue.evaluation.report.groups import group_by
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.paths import short_names
from bigbatch_ue.reporting.differences import UNKNOWN, describe_differences, flatten
from bigbatch_ue.reporting.words import span

_NOT_LEARNED = (ArmName.RANDOM_NOISE, ArmName.CLASS_NOISE, ArmName.PATTERN)
"""Arms whose perturbations clusters and bound decide."""


@dataclass(frozen=True)
class Entry:
    """One trained network: the method that its training images were perturbed by, and the task.

    Attributes:
        evaluation: where it comes from.
        arm: its results.
        base: name of the method, before what sets it apart from others of this name.
        settings: what decides the perturbations, as text by name; empty if it is unknown.
    """

    evaluation: Evaluation
    arm: Arm
    base: str
    settings: Mapping[str, str]

    @property
    def images(self) -> str:
        """Identity of the images; where it is not recorded, no other evaluation has the same."""
        about = self.evaluation.about
        return about.images if about and about.images else f"of {self.evaluation.source}"

    @property
    def column(self) -> tuple[Hashable, ...]:
        """Identity of data set and target network: never compared with another one."""
        return (self.arm.dataset, self.images, self.arm.target, digest(self.arm.recipe))

    @property
    def task(self) -> tuple[Hashable, ...]:
        """Identity of a column and the countermeasure: methods are compared within a task."""
        settings = digest(self.arm.countermeasure_settings)
        return (*self.column, self.arm.countermeasure, settings)

    @property
    def method(self) -> tuple[str, str]:
        """Identity of the method: its base and the digest of its settings."""
        return (self.base, digest(dict(self.settings)))

    @property
    def run(self) -> Hashable | None:
        """What tells repetitions of the method apart, besides the seeds of targets; None if none.

        It is the seed of the run, or the place of the images where several have one given name.
        """
        own = self.arm.arm in (ArmName.PROTECTED, ArmName.SHUFFLED)
        named = self.evaluation.foreign if self.evaluation.name and own else None
        return self.arm.run_seed if self.arm.run_seed is not None else named or None

    @property
    def is_clean(self) -> bool:
        """Whether the network was trained on clean images."""
        return self.arm.arm == ArmName.CLEAN


def grouping(evaluation: Evaluation) -> str:
    """Return which images share a perturbation: `classes`, `10 by features`; empty if unknown.

    The controls of images of another program are by class.
    """
    if evaluation.is_foreign:
        return "classes"
    clusters = evaluation.origin.get("clusters")
    if not clusters:
        return ""
    by = clusters.get("by", Grouping.FEATURES)
    if by == Grouping.NESTED:
        return f"{clusters.get('per_class')} a class"
    return "classes" if by == Grouping.LABELS else f"{clusters.get('count')} by features"


def bound(evaluation: Evaluation) -> str:
    """Return the bound of the perturbations, such as `16/255`; empty if unknown.

    Of images of another program it is their largest change.
    """
    eps = evaluation.origin.get("generator", {}).get("eps")
    if eps is not None:
        return f"{255 * eps:.3g}/255"
    known = evaluation.about if evaluation.is_foreign else None
    return f"{known.visibility.linf}/255" if known else ""


def is_compared(arm: Arm) -> bool:
    """Whether an arm is of a method, with the labels of the data set."""
    return arm.labels == "own" and arm.arm != ArmName.UNPROTECTED


def compared_entries(evaluations: Sequence[Evaluation]) -> list[Entry]:
    """Return the networks that are compared, each once: several evaluations share controls."""
    foreign = list(dict.fromkeys(each.foreign for each in evaluations if each.foreign))
    names = dict(zip(foreign, short_names(foreign), strict=True))
    found = [
        Entry(each, arm, _base(each, arm, names), _settings(each, arm))
        for each in evaluations
        for arm in each.arms
        if is_compared(arm)
    ]
    return list({(*e.task, e.method, e.run, e.arm.seed, e.arm.inputs): e for e in found}.values())


def method_names(entries: Iterable[Entry]) -> dict[tuple[str, str], str]:
    """Name each method, by its identity.

    A setting that differs in any task between methods of one base is part of all their names.
    """
    names: dict[tuple[str, str], str] = {}
    for base, alike in group_by(entries, lambda entry: entry.base).items():
        tasks = group_by(alike, lambda entry: entry.task).values()
        keys = list(dict.fromkeys(key for same in tasks for key in _differing(same)))
        for entry in alike:
            settings = [f"{key}={entry.settings[key]}" for key in keys if key in entry.settings]
            apart = settings or ([UNKNOWN] if keys and not entry.settings else [])
            names[entry.method] = ", ".join([base, *apart])
    return names


def data_names(entries: Sequence[Entry]) -> dict[tuple[str, str], str]:
    """Name each data set, known by its name and the identity of its images."""
    names = {}
    for name, alike in group_by(entries, lambda entry: entry.arm.dataset).items():
        sets = {entry.images: entry.evaluation for entry in reversed(alike)}
        places = short_names([_place(evaluation) for evaluation in sets.values()])
        told = [_data_settings(each, at) for each, at in zip(sets.values(), places, strict=True)]
        apart = describe_differences(told)
        if len(set(apart)) < len(sets):
            apart = list(sets)
        for images, words in zip(sets, apart if len(sets) > 1 else [""], strict=True):
            names[name, images] = ", ".join(filter(None, (name, words)))
    return names


def target_names(entries: Sequence[Entry]) -> dict[tuple[Hashable, ...], str]:
    """Name the target network of each column; of several recipes by what differs."""
    names = {}
    columns = group_by(entries, lambda entry: entry.column)
    for alike in group_by(columns, lambda column: column[:-1]).values():
        recipes = [columns[column][0].arm.recipe for column in alike]
        for column, words in zip(alike, describe_differences(recipes), strict=True):
            names[column] = ", ".join(filter(None, (str(column[2]), words)))
    return names


def _base(evaluation: Evaluation, arm: Arm, foreign: Mapping[str, str]) -> str:
    kind = ArmName(arm.arm)
    if kind is ArmName.CLEAN or kind in _NOT_LEARNED:
        return ARM_NAMES[kind]
    own = evaluation.name or "UC"
    if evaluation.is_foreign and not evaluation.name:
        own = foreign.get(evaluation.foreign, f"images of {evaluation.source}")
        own = f"images of {own}" if own in RESERVED else own
    control = "" if kind in (ArmName.UC, ArmName.PROTECTED) else ARM_NAMES[kind]
    share = "" if arm.fraction == 1 else f"{100 * arm.fraction:.3g} %"
    return ", ".join(filter(None, (own, control, share)))


def _settings(evaluation: Evaluation, arm: Arm) -> dict[str, str]:
    """Return what decides the perturbations of an arm; of repeated images, nothing."""
    origin = evaluation.origin
    batch = {"B": span([arm.effective_batch])} if arm.effective_batch else {}
    if arm.arm == ArmName.CLEAN or not origin:
        return batch
    own = {"clusters": grouping(evaluation), "eps": bound(evaluation)}
    if arm.arm in _NOT_LEARNED:
        by_classes = own["clusters"] == "classes"
        return own if by_classes else own | {"surrogate": digest(origin.get("surrogate"))}
    if evaluation.is_foreign:
        return {} if evaluation.name else {"images": evaluation.foreign}
    generator = {key: value for key, value in origin["generator"].items() if key != "eps"}
    return {"eps": own["eps"], **dict(flatten(origin | {"generator": generator})), **batch}


def _differing(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the settings that tell entries of one task apart.

    Those that both of a pair have tell them apart, or else those that one of them has.
    """
    kinds = {entry.method: entry.settings for entry in entries}.values()
    for one, other in combinations(kinds, 2):
        shared = [key for key in one if key in other and one[key] != other[key]]
        yield from shared or [key for key in {**one, **other} if (key in one) != (key in other)]


def _place(evaluation: Evaluation) -> str:
    return evaluation.about.place if evaluation.about else evaluation.source


def _data_settings(evaluation: Evaluation, place: str) -> dict[str, Any]:
    """Return the settings of the images, with their short name in place of where they are."""
    known = evaluation.about.settings.get("data", {}) if evaluation.about else {}
    kept = {key: value for key, value in known.items() if key not in ("name", "root", "title")}
    return {"data": {"name": place, **kept}} if kept else {"of": place}
