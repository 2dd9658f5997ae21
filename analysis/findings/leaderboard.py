"""Methods of protection compared: how much accuracy each takes, and which are told apart."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Literal

import numpy as np

from analysis.findings.methods import (
    Entry,
    bound,
    compared_entries,
    data_names,
    grouping,
    is_compared,
    method_names,
    target_names,
)
from analysis.fits.intervals import ALPHA, holm
from analysis.fits.paired import Estimate, Limits, Values, combined, estimate, paired, proportion
from analysis.table.evaluations import Evaluation
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import arm_title
from bigbatch_ue.evaluation.report.groups import SeedGroup, group_by
from bigbatch_ue.evaluation.report.verdict import LEAST_IMAGES
from bigbatch_ue.protection.visibility import Visibility
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError

Standing = Literal["reference", "best", "tied", "behind", "unknown"]
MEASURES = {"final_accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Score:
    """What one method leaves of the accuracy on one task.

    Attributes:
        method: name of the method.
        entries: its networks.
        measure: field of `Arm` that is compared.
        drop: what it takes from clean images, paired by seed; None without clean images.
        behind: how much more accuracy it leaves than the best method, paired by seed; None if it
            is the best one, the reference, or has no seed in common with the best.
        p: p-value of `behind`, adjusted for the number of methods of the task; None if unknown.
        standing: `reference` for clean images; `best`; `tied`, if it cannot be told from the best;
            `behind`; `unknown`, if there is a single network or no seed in common.
    """

    method: str
    entries: Sequence[Entry]
    measure: str
    drop: Estimate | None = None
    behind: Estimate | None = None
    p: float | None = None
    standing: Standing = "unknown"

    @property
    def group(self) -> SeedGroup:
        """Networks of the method."""
        return SeedGroup([entry.arm for entry in self.entries])

    @property
    def result(self) -> Estimate:
        """The measure that is compared."""
        return self.of(self.measure)

    @property
    def batch(self) -> str:
        """Effective batch of the generators; empty without them."""
        return self.group.batch

    @property
    def clusters(self) -> str:
        """Which images share a perturbation; empty if unknown, or of clean images."""
        unknown = (ArmName.CLEAN, ArmName.PROTECTED)
        return self._told(
            [grouping(e.evaluation) for e in self.entries if e.arm.arm not in unknown]
        )

    @property
    def eps(self) -> str:
        """Bound of the perturbations; empty if unknown or of clean images."""
        return self._told([bound(e.evaluation) for e in self.entries if not e.is_clean])

    @property
    def runs(self) -> int:
        """Number of different perturbations; 0 where the method has no runs."""
        return len({entry.run for entry in self.entries} - {None})

    @property
    def seeds(self) -> int:
        """Number of seeds of targets."""
        return len({entry.arm.seed for entry in self.entries})

    @property
    def linf(self) -> int | None:
        """Largest change of any value, in 1/255; None if unknown or of a control."""
        return max((seen.linf for seen in self._seen), default=None)

    @property
    def psnr(self) -> float | None:
        """Mean PSNR in dB over the evaluations; None if unknown or of a control."""
        return self._mean([seen.psnr_mean for seen in self._seen])

    @property
    def ssim(self) -> float | None:
        """Mean SSIM over the evaluations; None if unknown or of a control."""
        return self._mean([seen.ssim_mean for seen in self._seen])

    def of(self, field: str) -> Estimate:
        """Return the mean of a field of `Arm`, with its interval."""
        return estimate(self.values(field), self.limits(field)[1:] if field in MEASURES else None)

    def values(self, field: str) -> Values:
        """Return a field of `Arm` by run and target seed: the mean of networks that share both."""
        groups = group_by(self.entries, lambda entry: (entry.run, entry.arm.seed))
        return {
            key: fmean(getattr(entry.arm, field) for entry in same) for key, same in groups.items()
        }

    def limits(self, field: str) -> Limits:
        """Return the mean of a measure, and the interval that the number of test images gives."""
        mean = fmean(self.values(field).values())
        if field == "final_accuracy":
            return proportion(mean, self.group.test_images)
        counts = np.mean([entry.arm.confusion for entry in self.entries], axis=0)
        classes = [(row[i] / row.sum(), row.sum()) for i, row in enumerate(counts) if row.sum()]
        parts = [proportion(float(share), int(images)) for share, images in classes]
        _, low, high = combined(parts, [1 / len(parts)] * len(parts))
        return mean, max(low, 0.0), min(high, 1.0)

    @property
    def _seen(self) -> list[Visibility]:
        """Return what each evaluation of these very perturbations measured of the change."""
        own = [e.evaluation for e in self.entries if e.arm.arm in (ArmName.UC, ArmName.PROTECTED)]
        abouts = {evaluation.source: evaluation.about for evaluation in own}
        return [about.visibility for about in abouts.values() if about]

    @staticmethod
    def _mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    @staticmethod
    def _told(words: Sequence[str]) -> str:
        return " / ".join(dict.fromkeys(filter(None, words)))


@dataclass(frozen=True)
class Task:
    """Methods on one data set, with one target network, under one countermeasure or none.

    Attributes:
        dataset: name of the data set.
        target: name of the target network.
        countermeasure: in words; empty for none.
        column: identity of images, target and recipe, whatever the countermeasure.
        clean: score of clean images; None if no network was trained on them.
        scores: scores of the methods, the best first.
    """

    dataset: str
    target: str
    countermeasure: str
    column: tuple[Hashable, ...]
    clean: Score | None
    scores: Sequence[Score]

    @property
    def title(self) -> str:
        """Name of the task."""
        return " · ".join(filter(None, (self.dataset, self.target, self.countermeasure)))

    @property
    def rows(self) -> list[Score]:
        """Clean images, if there are any, then the methods."""
        return [*([self.clean] if self.clean else []), *self.scores]

    @property
    def images(self) -> str:
        """Identity of the images."""
        return str(self.column[1])

    @property
    def measure(self) -> str:
        """The measure that is compared, in words."""
        return MEASURES[self.rows[0].measure]

    @property
    def group(self) -> SeedGroup:
        """Networks that say what all have in common: classes, test images, chance."""
        return self.rows[0].group

    def score(self, method: str) -> Score | None:
        """Return the score of a method, if it has one."""
        return next((score for score in self.rows if score.method == method), None)


@dataclass(frozen=True)
class Leaderboard:
    """All tasks, and what was left out.

    Attributes:
        tasks: tasks without countermeasures and with them, in the order of the evaluations.
        notes: what was left out or is unknown, in words.
        sources: the evaluations, as the user named them.
    """

    tasks: Sequence[Task]
    notes: Sequence[str]
    sources: Sequence[str]

    @cached_property
    def plain(self) -> list[Task]:
        """Tasks without countermeasures."""
        return [task for task in self.tasks if not task.countermeasure]

    @cached_property
    def shared(self) -> list[Task]:
        """Tasks without countermeasures that compare at least two methods with clean images."""
        return [task for task in self.plain if task.clean and len(task.scores) > 1]

    def mean_drop(self, method: str) -> float | None:
        """Return the mean drop over `shared`; None if the method lacks one of them."""
        scores = [task.score(method) for task in self.shared]
        drops = [score.drop.mean for score in scores if score and score.drop]
        return fmean(drops) if drops and len(drops) == len(self.shared) else None

    @cached_property
    def methods(self) -> list[str]:
        """Methods by falling mean drop, then those without one; clean images are none of them."""
        names = dict.fromkeys(score.method for task in self.tasks for score in task.scores)
        return sorted(names, key=self._order)

    def countered(self, plain: Task) -> list[Task]:
        """Return the tasks that differ from `plain` in having a countermeasure."""
        return [task for task in self.tasks if task.countermeasure and task.column == plain.column]

    def methods_of(self, tasks: Sequence[Task]) -> list[str]:
        """Return clean images and the methods that any of `tasks` has, in the order of all."""
        clean = [task.clean.method for task in tasks if task.clean]
        named = [method for method in self.methods if any(task.score(method) for task in tasks)]
        return [*clean[:1], *named]

    def _order(self, method: str) -> tuple[bool, float]:
        mean = self.mean_drop(method)
        scores = [score for task in self.plain if (score := task.score(method))]
        own = [score.drop.mean for score in scores if score.drop]
        return mean is None, -(mean if mean is not None else fmean(own) if own else 0.0)


def compare(evaluations: Sequence[Evaluation]) -> Leaderboard:
    """Compare the methods of several evaluations task by task.

    Results are compared only if images, target network, its training and the countermeasure are
    the same. The measure is the final accuracy, or balanced accuracy where classes are uneven.

    Raises:
        UserError: no evaluation has a network to compare.
    """
    entries = compared_entries(evaluations)
    if not entries:
        raise UserError("compare: nothing to compare, only other labels and unprotected parts")
    names, data, targets = method_names(entries), data_names(entries), target_names(entries)
    tasks = []
    for same in group_by(entries, lambda entry: entry.task).values():
        first = same[0]
        group = SeedGroup([entry.arm for entry in same])
        measure = "balanced_accuracy" if group.is_uneven else "final_accuracy"
        methods = group_by(same, lambda entry: names[entry.method])
        scores = [Score(method, own, measure) for method, own in methods.items()]
        clean = next((score for score in scores if score.entries[0].is_clean), None)
        if clean:
            clean = replace(clean, standing="reference")
        ranked = _ranked([score for score in scores if not score.entries[0].is_clean], clean)
        words = (data[first.arm.dataset, first.images], targets[first.column])
        tasks.append(Task(*words, group.countermeasure, first.column, clean, ranked))
    sources = [f"{e.name}={e.source}" if e.name else e.source for e in evaluations]
    return Leaderboard(tasks, _notes(evaluations), sources)


def _ranked(scores: Sequence[Score], clean: Score | None) -> list[Score]:
    """Order scores by what they take from clean images, and compare each with the best."""
    if clean:
        scores = [replace(score, drop=_difference(clean, score)) for score in scores]
    if not scores:
        return []
    best, *others = sorted(
        scores, key=lambda score: -score.drop.mean if score.drop else score.result.mean
    )
    others = [replace(score, behind=_difference(score, best)) for score in others]
    adjusted = holm([score.behind.p if score.behind else np.nan for score in others])
    judged = [_judged(score, p) for score, p in zip(others, adjusted, strict=True)]
    return [replace(best, standing="best"), *judged]


def _judged(score: Score, p: float) -> Score:
    """Say how a score stands to the best; few test images are never called a difference."""
    if np.isnan(p) or score.behind is None:
        return score
    images = round(abs(score.behind.mean) * score.group.test_images)
    apart = p < ALPHA and images >= LEAST_IMAGES
    return replace(score, p=p, standing="behind" if apart else "tied")


def _difference(one: Score, other: Score) -> Estimate | None:
    """Subtract `other` from `one` in their measure; None without a seed in common.

    Of one network each, the interval takes their test images as independent, so it is too wide
    rather than too narrow.
    """
    values = paired(one.values(one.measure), other.values(other.measure))
    if not values:
        return None
    single = combined([one.limits(one.measure), other.limits(other.measure)], [1, -1])[1:]
    return estimate(values, single)


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Say what is left out, and what is unknown."""
    notes = []
    for each in evaluations:
        if each.about is None:
            notes.append(
                f"{each.source}: no about.json beside the results, so images and settings are "
                "unknown, and nothing else is compared with them"
            )
        elif not each.about.images:
            notes.append(
                f"{each.source}: by an earlier version, which did not record the images, so "
                "nothing else is compared with them"
            )
        if each.about and len(each.arms) < each.about.wanted:
            notes.append(f"{each.source}: {len(each.arms)} of {each.about.wanted} arms so far")
        left = [arm for arm in each.arms if not is_compared(arm)]
        if left:
            kinds = ", ".join(dict.fromkeys(map(arm_title, left)))
            notes.append(
                f"{each.source}: {counted(len(left), 'network')} left out, because other labels "
                f"and unprotected parts are no methods ({kinds})"
            )
    return notes
