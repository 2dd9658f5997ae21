"""Arms of an evaluation put together by what they share, and named in words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.evaluation.arms import ARM_NAMES, Arm
from bigbatch_ue.evaluation.report.figures import (
    COLOURS,
    ProtectionTrend,
    SeedCurves,
    data_uri,
    learning_curves,
    partial_protection,
    row_fractions,
)
from bigbatch_ue.reporting.statistics import Summary, summarise
from bigbatch_ue.runtime.errors import UserError

COUNTERMEASURES = {
    Countermeasure.NONE: "none",
    Countermeasure.CUTOUT: "cutout",
    Countermeasure.MIXUP: "mixup",
    Countermeasure.CUTMIX: "cutmix",
    Countermeasure.RANDAUGMENT: "RandAugment",
    Countermeasure.JPEG75: "JPEG, quality 75",
    Countermeasure.JPEG10: "JPEG, quality 10",
    Countermeasure.GREY: "greyscale",
    Countermeasure.BLUR: "Gaussian blur",
    Countermeasure.BIT_DEPTH: "3 bits per value",
    Countermeasure.LOW_PASS: "low-pass filter",
    Countermeasure.ADVERSARIAL: "adversarial training",
    Countermeasure.CLUSTER_AVERAGE: "averages removed",
    Countermeasure.PROJECTION: "projection",
}
_OWN = (ArmName.UC, ArmName.PROTECTED)
_STEPS = 25
_CONTROLS = (
    ArmName.CLEAN,
    ArmName.RANDOM_NOISE,
    ArmName.SHUFFLED,
    ArmName.RANDOM_SURROGATE,
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class SeedGroup:
    """Arms that differ in their seeds only."""

    arms: Sequence[Arm]

    @property
    def first(self) -> Arm:
        """Any of them."""
        return self.arms[0]

    @property
    def name(self) -> str:
        """What the train images were, in words."""
        arm, fraction = ArmName(self.first.arm), self.first.fraction
        share = 1 - fraction if arm is ArmName.UNPROTECTED else fraction
        if share in (0, 1):
            return ARM_NAMES[arm]
        return f"{ARM_NAMES[arm]}, {100 * share:.3g}\N{NO-BREAK SPACE}%"

    @property
    def countermeasure(self) -> str:
        """What the scraper did, in words; empty for nothing."""
        countermeasure = Countermeasure(self.first.countermeasure)
        return "" if countermeasure is Countermeasure.NONE else COUNTERMEASURES[countermeasure]

    @property
    def labels(self) -> str:
        """The labels, in words; empty for the data set's own."""
        kind, _, value = self.first.labels.partition(":")
        words = {
            "own": "",
            "map": f"classes of {Path(value).name}",
            "random": f"{value} random superclasses",
            "prototypes": f"{value} superclasses of like classes",
        }
        return words.get(kind, self.first.labels)

    @property
    def is_own(self) -> bool:
        """Whether it tells of the perturbations that are judged."""
        return self.first.arm in _OWN

    @property
    def is_main(self) -> bool:
        """Whether nothing was done but to the train images."""
        return not self.countermeasure and not self.labels

    @property
    def colour(self) -> str:
        """The same in every chart."""
        return COLOURS[ArmName(self.first.arm)]

    @property
    def classes(self) -> int:
        """How many classes there are to tell apart."""
        return len(self.first.confusion)

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.classes

    @cached_property
    def final(self) -> Summary:
        """Final accuracy."""
        return self.of("final_accuracy")

    def of(self, field: str) -> Summary:
        """A number of every arm, summed up."""
        return summarise([getattr(arm, field) for arm in self.arms])

    def heat(self) -> dict[float, list[tuple[int, int]]]:
        """Cells (column, row) of all seeds' confusion matrix by their rounded share of the row."""
        total: list[list[int]] = np.sum([arm.confusion for arm in self.arms], axis=0).tolist()
        levels = (np.rint(_STEPS * row_fractions(total)) / _STEPS).tolist()
        cells = ((level, x, y) for y, row in enumerate(levels) for x, level in enumerate(row))
        heat = group_by((cell for cell in cells if cell[0]), lambda cell: cell[0])
        return {level: [(x, y) for _, x, y in same] for level, same in heat.items()}


@dataclass(frozen=True)
class CountermeasureRow:
    """A countermeasure on perturbed images; beside it, on clean ones, and not taken at all."""

    name: str
    group: SeedGroup | None
    clean: SeedGroup | None
    without: SeedGroup | None

    @property
    def recovered(self) -> float | None:
        """What the scraper gains by it."""
        if self.group is None or self.without is None:
            return None
        return self.group.final.mean - self.without.final.mean


@dataclass(frozen=True)
class TargetResults:
    """What one target's arms show on one data set."""

    target: str
    groups: Sequence[SeedGroup]

    @cached_property
    def main(self) -> list[SeedGroup]:
        """Arms under no countermeasure, with their own labels."""
        return [group for group in self.groups if group.is_main]

    @cached_property
    def batches(self) -> bool:
        """Whether any arm has an effective batch to tell."""
        return any(group.first.effective_batch for group in self.groups)

    @cached_property
    def headline(self) -> list[SeedGroup]:
        """The perturbations that are judged, on as many of the images as were tried."""
        own = [group for group in self.main if group.is_own]
        most = max((group.first.fraction for group in own), default=0)
        return [group for group in own if group.first.fraction == most]

    @property
    def relabelled(self) -> list[SeedGroup]:
        """Arms with other labels."""
        return [group for group in self.groups if group.labels]

    @property
    def charted(self) -> Iterator[tuple[str, list[tuple[str, SeedGroup]]]]:
        """All groups by what they are called, below headings."""
        yield "", [(self.long_name(group), group) for group in self.main]
        countered = [group for group in reversed(self.groups) if group.countermeasure]
        for name, groups in group_by(countered, lambda g: self._titled(g.name, g)).items():
            yield f"{name}, under countermeasures", [(g.countermeasure, g) for g in groups[::-1]]
        if self.relabelled:
            yield "other labels", [(self.long_name(group), group) for group in self.relabelled]

    def control(self, arm: str) -> SeedGroup | None:
        """One of the main arms."""
        return next((group for group in self.main if group.first.arm == arm), None)

    def long_name(self, group: SeedGroup) -> str:
        """A group's name among all others of this block."""
        parts = (self._titled(group.name, group), group.countermeasure, group.labels)
        return " · ".join(filter(None, parts))

    def countered(self) -> list[CountermeasureRow]:
        """Countermeasure by countermeasure, every arm that it was tried on."""
        rows = []
        mine = [group for group in self.groups if group.countermeasure]
        for name, groups in group_by(mine, lambda group: group.countermeasure).items():
            clean = next((group for group in groups if group.first.arm == ArmName.CLEAN), None)
            others: list[SeedGroup | None] = [group for group in groups if group is not clean]
            for group in others or [None]:
                rows.append(CountermeasureRow(name, group, clean, self._without(group)))
        return rows

    def curves(self) -> str:
        """The learning curves of whatever is not partial, as a picture."""
        whole = [group for group in self.main if group.first.fraction in (0, 1)]
        curves = [
            SeedCurves(self.long_name(g), g.first.arm, [arm.accuracies for arm in g.arms])
            for g in whole
        ]
        return data_uri(learning_curves(curves, whole[0].chance)) if whole else ""

    def partial(self) -> str:
        """Accuracy by the protected share, as a picture, if there are two shares or more."""
        parts = [g for g in self.main if g.is_own or g.first.arm == ArmName.UNPROTECTED]
        if len({group.first.fraction for group in parts if group.is_own}) < 2:
            return ""
        clean = self.control(ArmName.CLEAN)
        start = [(0.0, clean.final)] if clean else []
        trends = [
            ProtectionTrend(
                self._titled(ARM_NAMES[ArmName(groups[0].first.arm)], groups[0]),
                groups[0].first.arm,
                [*start, *((group.first.fraction, group.final) for group in groups)],
            )
            for groups in group_by(parts, lambda g: (g.first.arm, g.first.effective_batch)).values()
        ]
        return data_uri(partial_protection(trends, parts[0].chance))

    @cached_property
    def _several_batches(self) -> bool:
        return len({g.first.effective_batch for g in self.groups if g.is_own}) > 1

    def _titled(self, name: str, group: SeedGroup) -> str:
        batch = group.first.effective_batch
        return f"{name}, B {batch:,}" if batch and self._several_batches else name

    def _without(self, group: SeedGroup | None) -> SeedGroup | None:
        """The group that differs from `group` only in that there is no countermeasure."""
        if group is None:
            return None
        key = replace(group.first, countermeasure=Countermeasure.NONE).group
        return next((other for other in self.main if other.first.group == key), None)


def seed_groups(arms: Iterable[Arm]) -> list[SeedGroup]:
    """Arms that differ in their seeds only, together: controls first, then by what is protected.

    Raises:
        UserError: such arms have different numbers of classes.
    """
    groups = [
        SeedGroup(same)
        for same in group_by(sorted(arms, key=_rank), lambda arm: arm.group).values()
    ]
    for group in groups:
        if any(len(arm.confusion) != group.classes for arm in group.arms):
            raise UserError(f"{group.first.dataset}, {group.name}: seeds differ in their classes")
    return groups


def distinct(arms: Iterable[Arm]) -> list[Arm]:
    """Each arm once: several runs share the very same controls."""
    return list({(arm.key, arm.run_seed, arm.inputs): arm for arm in arms}.values())


def group_by(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items by their key, in the order in which they come."""
    together: dict[Any, list[Item]] = {}
    for item in items:
        together.setdefault(key(item), []).append(item)
    return together


def _rank(arm: Arm) -> tuple[Any, ...]:
    """Controls, then by the share that is protected; what is done besides comes last."""
    controls, measures = list(_CONTROLS), list(Countermeasure)
    place = controls.index(ArmName(arm.arm)) if arm.arm in controls else len(controls)
    besides = (arm.labels != "own", arm.labels, measures.index(Countermeasure(arm.countermeasure)))
    who = (place, arm.fraction, arm.arm in _OWN, arm.effective_batch or 0, arm.seed)
    return (arm.dataset, arm.target, *besides, *who)
