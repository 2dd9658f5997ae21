"""What an evaluation judges, what the scraper of each arm gets of it, and one arm's target."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.evaluation.arms import RUN_ARMS, Arm, ArmSpec
from bigbatch_ue.evaluation.relabel import relabel
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.protection.perturbations import Perturbations, protected_images
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

_RECIPE = 2
_NOISE, _TARGET, _SHUFFLE, _PART = range(4)  # subkeys of Purpose.CONTROL
_BY_GROUP = (Countermeasure.CLUSTER_AVERAGE, Countermeasure.PROJECTION)


@dataclass(frozen=True)
class Subject:
    """What an evaluation judges.

    Attributes:
        name: `uc` for perturbations of this program, `protected` for those of another.
        config: its `target`, `evaluation` and `augment` are the recipe.
        data: the clean images and labels.
        learnt: the perturbations.
        groups: int64 [N], images that an attacker might average over: clusters, else classes.
        features: gives float32 [N, d] of the clean train images, for groupings of the classes.
        control: perturbations learnt against a random surrogate, where that control is wanted.
        facts: `run_seed`, `effective_batch` and `optimizer_steps` of the perturbations, if known.
    """

    name: ArmName
    config: Config
    data: DataSet
    learnt: Perturbations
    groups: NDArray[np.int64]
    features: Callable[[], NDArray[np.float32]]
    control: Perturbations | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def labellings(self) -> dict[str, DataSet]:
        """The data set under each of the labels that are asked for."""
        asked = ("own", *self.config.evaluation.labels)
        seed = self.config.seed
        return {labels: relabel(labels, self.data, self.features, seed) for labels in asked}

    @cached_property
    def _fingerprints(self) -> dict[ArmName, str]:
        """Of the perturbations, for the arms that depend on them."""
        found = dict.fromkeys((self.name, ArmName.SHUFFLED), self.learnt.fingerprint())
        if self.control is not None:
            found[ArmName.RANDOM_SURROGATE] = self.control.fingerprint()
        return found

    @cached_property
    def _weights(self) -> str | None:
        """Of the file that the target's weights come from."""
        kind, _, file = self.config.target.weights.partition(":")
        return _sha(np.fromfile(expand_path(file), np.uint8)) if kind == "file" else None

    @cached_property
    def _grouping(self) -> list[Any]:
        return [_sha(self.groups), self.learnt.eps]

    def inputs(self, case: ArmSpec, ranks: int = 1) -> str:
        """Digest of what decides an arm's answer, when `ranks` train each batch together."""
        config, labelled = self.config, self.labellings[case.labels]
        content: dict[str, Any] = {
            "recipe": [_RECIPE, config.augment.pad, config.augment.flip, ranks],
            "case": case,
            "data": [self.data.name, self.data.fingerprint],
            "target": config.target.model_dump(mode="json"),
        }
        if self._weights is not None:
            content["weights"] = self._weights
        if case.labels != "own":
            labels = (labelled.train.labels, labelled.test.labels)
            content["labels"] = [len(labelled.classes), *map(_sha, labels)]
        if case.countermeasure is Countermeasure.ADVERSARIAL:
            content["adversarial"] = config.evaluation.adversarial.model_dump()
        if case.arm is ArmName.RANDOM_NOISE or case.countermeasure in _BY_GROUP:
            content["groups"] = self._grouping
        if case.arm in self._fingerprints:
            content["perturbations"] = self._fingerprints[case.arm]
        return digest(content)

    def own(self, arm: Arm) -> Arm:
        """An arm, whoever had it trained, with this subject's name and facts."""
        facts = self.facts if arm.arm in RUN_ARMS else {}
        return replace(arm, dataset=self.config.data.title, **facts)

    def train_images(self, case: ArmSpec) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """What the scraper of an arm gets, before countermeasures.

        The unprotected part is repeated until it is as large as the whole: every arm takes the same
        number of steps.

        Returns:
            uint8 [N, C, H, W] and int64 [N], which of the N train images they are.
        """
        images = self.data.train.images
        everything = np.arange(len(images))
        match case.arm:
            case ArmName.CLEAN:
                return images, everything
            case ArmName.UNPROTECTED:
                rest = _unprotected_part(len(images), case.fraction, case.seed)
                if not len(rest):
                    raise UserError(f"evaluation.fractions={case.fraction} leaves no image over")
                rest = np.resize(rest, len(images))
                return images[rest], rest
            case ArmName.RANDOM_NOISE:
                learnt = random_noise(self.groups, images.shape[1:], self.learnt.eps, case.seed)
            case ArmName.SHUFFLED:
                order = draw(case.seed, Purpose.CONTROL, _SHUFFLE).permutation(len(images))
                learnt = replace(self.learnt, assignment=self.learnt.assignment[order])
            case ArmName.RANDOM_SURROGATE:
                assert self.control is not None
                learnt = self.control
            case _:
                learnt = self.learnt
        protected = protected_images(images, **vars(learnt))
        if case.fraction < 1:
            rest = _unprotected_part(len(images), case.fraction, case.seed)
            protected[rest] = images[rest]
        return protected, everything


def protected_part(count: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Which of `count` images are protected, sorted; a larger fraction holds a smaller one."""
    order = draw(seed, Purpose.CONTROL, _PART).permutation(count)
    return np.sort(order[: round(fraction * count)])


def _unprotected_part(count: int, fraction: float, seed: int) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(count), protected_part(count, fraction, seed))


def random_noise(
    groups: NDArray[np.int64], shape: tuple[int, ...], eps: float, seed: int
) -> Perturbations:
    """The control: `+eps` or `-eps` at random in each value of each group's perturbation."""
    count = int(groups.max()) + 1
    signs = 2 * draw(seed, Purpose.CONTROL, _NOISE).integers(2, size=(count, *shape)) - 1
    return Perturbations((eps * signs).astype(np.float32), groups, eps)


def _sha(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
