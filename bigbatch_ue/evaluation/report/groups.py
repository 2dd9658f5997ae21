"""Arms of an evaluation in seed groups, described in words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.evaluation.arms import ARM_NAMES, Arm
from bigbatch_ue.evaluation.report.verdict import Comparison, Difference, Verdict
from bigbatch_ue.files.formats import digest
from bigbatch_ue.reporting.differences import describe_differences
from bigbatch_ue.reporting.statistics import Summary, summarise
from bigbatch_ue.reporting.style import GREY, PALETTE
from bigbatch_ue.reporting.words import span
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
COLOURS = {
    ArmName.CLEAN: PALETTE["green"],
    ArmName.RANDOM_NOISE: PALETTE["sky"],
    ArmName.CLASS_NOISE: GREY,
    ArmName.PATTERN: PALETTE["black"],
    ArmName.SHUFFLED: PALETTE["blue"],
    ArmName.RANDOM_SURROGATE: PALETTE["pink"],
    ArmName.UNPROTECTED: PALETTE["orange"],
    ArmName.UC: PALETTE["vermilion"],
    ArmName.PROTECTED: PALETTE["vermilion"],
}
_EVALUATED = (ArmName.UC, ArmName.PROTECTED)
_CONTROLS = (
    ArmName.CLEAN,
    ArmName.RANDOM_NOISE,
    ArmName.CLASS_NOISE,
    ArmName.PATTERN,
    ArmName.SHUFFLED,
    ArmName.RANDOM_SURROGATE,
)
_SHADES = 25
_UNEVEN = 0.1
"""Classes are uneven if the largest one is more frequent than the mean by this share of images."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class SeedGroup:
    """Arms that differ only in their seeds."""

    arms: Sequence[Arm]

    @property
    def first(self) -> Arm:
        """Representative of what all arms have in common."""
        return self.arms[0]

    @property
    def name(self) -> str:
        """Train images, in words."""
        arm, fraction = ArmName(self.first.arm), self.first.fraction
        fraction = 1 - fraction if arm is ArmName.UNPROTECTED else fraction
        if fraction in (0, 1):
            return ARM_NAMES[arm]
        return f"{ARM_NAMES[arm]}, {100 * fraction:.3g}\N{NO-BREAK SPACE}%"

    @property
    def countermeasure(self) -> str:
        """Countermeasure of the scraper, in words; empty for none."""
        countermeasure = Countermeasure(self.first.countermeasure)
        if countermeasure is Countermeasure.NONE:
            return ""
        settings = self.first.countermeasure_settings
        name = COUNTERMEASURES[countermeasure]
        if not settings:
            return name
        return f"{name} (eps {255 * settings['eps']:.3g}/255, {settings['steps']} steps)"

    @property
    def labels(self) -> str:
        """Labels, in words; empty for those of the data set."""
        kind, _, value = self.first.labels.partition(":")
        words = {
            "own": "",
            "map": f"classes of {Path(value).name}",
            "random": f"{value} random superclasses",
            "prototypes": f"{value} superclasses of similar classes",
        }
        return words.get(kind, self.first.labels)

    @property
    def is_evaluated(self) -> bool:
        """Whether the train images carry the evaluated perturbations."""
        return self.first.arm in _EVALUATED

    @property
    def is_main(self) -> bool:
        """Whether there is neither a countermeasure nor a change of labels."""
        return not self.countermeasure and not self.labels

    @property
    def colour(self) -> str:
        """Colour of the arm, the same in every chart."""
        return COLOURS[ArmName(self.first.arm)]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.first.confusion)

    @property
    def batch(self) -> str:
        """Effective batch of the generators, such as `25 to 28`; empty without them."""
        batches = [batch for arm in self.arms for batch in arm.batches]
        return span(batches) if batches else ""

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.classes

    @property
    def largest_class(self) -> float:
        """Accuracy of always answering the most frequent class of the test set."""
        images = np.sum(self.first.confusion, axis=1)
        return float(images.max() / images.sum())

    @property
    def test_images(self) -> int:
        """Number of test images."""
        return int(np.sum(self.first.confusion))

    @property
    def is_uneven(self) -> bool:
        """Whether the classes are so uneven that accuracy alone misleads."""
        return self.largest_class > self.chance + _UNEVEN

    @cached_property
    def final(self) -> Summary:
        """Final accuracy over the seeds."""
        return self.summary("final_accuracy")

    def summary(self, field: str) -> Summary:
        """Summarise a field of `Arm` over the seeds."""
        return summarise([getattr(arm, field) for arm in self.arms])

    def shades(self) -> dict[float, list[tuple[int, int]]]:
        """Return the cells (column, row) of the confusion matrix of all seeds, by their shade.

        A shade is the fraction of the row, in (0, 1] and rounded; cells that round to 0 are absent.
        """
        total: list[list[int]] = np.sum([arm.confusion for arm in self.arms], axis=0).tolist()
        rounded = (np.rint(_SHADES * row_fractions(total)) / _SHADES).tolist()
        cells = ((shade, x, y) for y, row in enumerate(rounded) for x, shade in enumerate(row))
        shades = group_by((cell for cell in cells if cell[0]), lambda cell: cell[0])
        return {shade: [(x, y) for _, x, y in same] for shade, same in shades.items()}


@dataclass(frozen=True)
class CountermeasureRow:
    """A countermeasure and its effect on the accuracy.

    Attributes:
        name: countermeasure, in words.
        group: arms on perturbed images under it; None if there are none.
        clean: arms on clean images under it; None if there are none.
        without: arms like `group` without the countermeasure; None if there are none.
    """

    name: str
    group: SeedGroup | None
    clean: SeedGroup | None
    without: SeedGroup | None

    @property
    def recovered(self) -> float | None:
        """Accuracy that the scraper gains; None if it is unknown."""
        if self.group is None or self.without is None:
            return None
        return self.group.final.mean - self.without.final.mean


@dataclass(frozen=True)
class TargetResults:
    """Results of one target network on one data set."""

    target: str
    groups: Sequence[SeedGroup]

    @property
    def recipe(self) -> dict[str, Any]:
        """Settings that decided the training; empty in records of earlier versions."""
        return self.groups[0].first.recipe

    @cached_property
    def main(self) -> list[SeedGroup]:
        """Seed groups without countermeasure, with the labels of the data set."""
        return [group for group in self.groups if group.is_main]

    @cached_property
    def has_batches(self) -> bool:
        """Whether any arm has an effective batch."""
        return any(group.first.effective_batch for group in self.groups)

    @cached_property
    def headline(self) -> list[SeedGroup]:
        """Evaluated perturbations on the largest fraction of the images that was tried."""
        evaluated = [group for group in self.main if group.is_evaluated]
        largest = max((group.first.fraction for group in evaluated), default=0)
        return [group for group in evaluated if group.first.fraction == largest]

    @property
    def relabelled(self) -> list[SeedGroup]:
        """Seed groups with other labels."""
        return [group for group in self.groups if group.labels]

    @property
    def charted(self) -> Iterator[tuple[str, list[tuple[str, SeedGroup]]]]:
        """All seed groups with their names, below headings; the first heading is empty."""
        yield "", [(self.long_name(group), group) for group in self.main]
        countered = [group for group in reversed(self.groups) if group.countermeasure]
        for name, groups in group_by(countered, lambda g: self.with_batch(g.name, g)).items():
            yield f"{name}, under countermeasures", [(g.countermeasure, g) for g in groups[::-1]]
        if self.relabelled:
            yield "other labels", [(self.long_name(group), group) for group in self.relabelled]

    def comparisons(self, group: SeedGroup) -> Iterator[Comparison]:
        """Compare `group`, of protected images, with each perturbed control that was trained.

        There is nothing to compare if clean images teach nothing.
        """
        verdict = self.verdict(group)
        if verdict and verdict.shows_nothing:
            return
        for name in _CONTROLS:
            control = self.control(name)
            if name == ArmName.CLEAN or control is None:
                continue
            difference = _difference(control, group, "final_accuracy")
            if difference:
                yield Comparison(control.name, difference)

    def verdict(self, group: SeedGroup) -> Verdict | None:
        """Judge `group`, of protected images, against clean ones; None if there are none.

        Where the classes are uneven, balanced accuracy decides.
        """
        clean = self.control(ArmName.CLEAN)
        measure = "balanced_accuracy" if group.is_uneven else "final_accuracy"
        difference = _difference(clean, group, measure) if clean else None
        if clean is None or difference is None:
            return None
        means = (clean.summary(measure).mean, group.summary(measure).mean)
        return Verdict(*means, group.chance, difference)

    def control(self, arm: str) -> SeedGroup | None:
        """Return the seed group of a control without countermeasure, if there is one."""
        return next((group for group in self.main if group.first.arm == arm), None)

    def long_name(self, group: SeedGroup) -> str:
        """Name a seed group differently from all others of these results."""
        parts = (self.with_batch(group.name, group), group.countermeasure, group.labels)
        return " · ".join(filter(None, parts))

    def with_batch(self, name: str, group: SeedGroup) -> str:
        """Append the effective batch of `group` to `name` if several were evaluated."""
        return f"{name}, B {group.batch}" if group.batch and self._has_several_batches else name

    def countermeasure_rows(self) -> list[CountermeasureRow]:
        """Return a row for each countermeasure and each kind of images it was tried on."""
        rows = []
        countered = [group for group in self.groups if group.countermeasure]
        for name, groups in group_by(countered, lambda group: group.countermeasure).items():
            clean = next((group for group in groups if group.first.arm == ArmName.CLEAN), None)
            others: list[SeedGroup | None] = [group for group in groups if group is not clean]
            for group in others or [None]:
                rows.append(CountermeasureRow(name, group, clean, self._without(group)))
        return rows

    @cached_property
    def _has_several_batches(self) -> bool:
        return len({g.first.effective_batch for g in self.groups if g.is_evaluated}) > 1

    def _without(self, group: SeedGroup | None) -> SeedGroup | None:
        """Return the seed group that differs from `group` only in having no countermeasure."""
        if group is None:
            return None
        first = replace(group.first, countermeasure=Countermeasure.NONE, countermeasure_settings={})
        return next(
            (other for other in self.main if other.first.seed_group == first.seed_group), None
        )


def seed_groups(arms: Iterable[Arm]) -> list[SeedGroup]:
    """Group arms that differ only in their seeds: controls first, then by protected fraction.

    Raises:
        UserError: arms of one seed group have different numbers of classes.
    """
    groups = [
        SeedGroup(same)
        for same in group_by(sorted(arms, key=_sort_key), lambda arm: arm.seed_group).values()
    ]
    for group in groups:
        if any(len(arm.confusion) != group.classes for arm in group.arms):
            raise UserError(
                f"{group.first.dataset}, {group.name}: the number of classes differs between "
                "seeds; report on these evaluations one by one"
            )
    return groups


def results_by_target(arms: Iterable[Arm]) -> list[TargetResults]:
    """Group arms by target; of several recipes for one target, each has its own results."""
    results = []
    for target, alike in group_by(arms, lambda arm: arm.target).items():
        recipes = group_by(alike, lambda arm: digest(arm.recipe)).values()
        differences = describe_differences([same[0].recipe for same in recipes])
        for same, difference in zip(recipes, differences, strict=True):
            title = ", ".join(filter(None, (target, difference)))
            results.append(TargetResults(title, seed_groups(same)))
    return results


def titled_results(arms: Iterable[Arm]) -> dict[str, TargetResults]:
    """Group arms by data set and target, under a title for each."""
    return {
        f"{dataset}, {results.target}": results
        for dataset, same in group_by(distinct(arms), lambda arm: arm.dataset).items()
        for results in results_by_target(same)
    }


def distinct(arms: Iterable[Arm]) -> list[Arm]:
    """Return each arm once: several runs share the same controls."""
    return list({(arm.key, arm.run_seed, arm.inputs): arm for arm in arms}.values())


def group_by(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Group items by their key; keys and items keep their order."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def row_fractions(confusion: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Divide each row of counts by its sum; a class without images stays at 0."""
    counts = np.array(confusion, dtype=np.float64)
    sums = counts.sum(axis=1, keepdims=True)
    fractions: NDArray[np.float64] = counts / np.maximum(sums, 1)
    return fractions


def _difference(control: SeedGroup, group: SeedGroup, measure: str) -> Difference | None:
    """Subtract `group` from `control` seed by seed; None if they have no seed in common."""
    values = {arm.seed: getattr(arm, measure) for arm in group.arms}
    gains = [getattr(a, measure) - values[a.seed] for a in control.arms if a.seed in values]
    return Difference(summarise(gains), group.test_images) if gains else None


def _sort_key(arm: Arm) -> tuple[Any, ...]:
    """Order controls first, then by protected fraction; countermeasures and labels come last."""
    measures = list(Countermeasure)
    rank = _CONTROLS.index(ArmName(arm.arm)) if arm.arm in _CONTROLS else len(_CONTROLS)
    changes = (arm.labels != "own", arm.labels, measures.index(Countermeasure(arm.countermeasure)))
    images = (rank, arm.fraction, arm.arm in _EVALUATED, arm.effective_batch or 0, arm.seed)
    return (arm.dataset, arm.target, *changes, *images)
