"""The subject of an evaluation: perturbations, their data set, and the images of each arm."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.clustering.agreement import measure_agreement
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.evaluation.arms import RUN_ARMS, Arm, ArmSpec
from bigbatch_ue.evaluation.relabel import relabel
from bigbatch_ue.files.formats import digest
from bigbatch_ue.protection.perturbations import Perturbations, protected_images
from bigbatch_ue.runs.identity import hash_weights
from bigbatch_ue.runs.result import Agreement
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

_BLOCKS = 8
"""Blocks of the control `pattern` along each side of an image."""
_RECIPE = 2  # raise it when the same settings train another target
_OF_IMAGE_GROUPS = (ArmName.RANDOM_NOISE, ArmName.PATTERN)
_USES_IMAGE_GROUPS = (Countermeasure.CLUSTER_AVERAGE, Countermeasure.PROJECTION)


class Stream(IntEnum):
    """The random streams of an arm, below `Purpose.CONTROL`."""

    NOISE = 0
    TARGET = 1
    SHUFFLE = 2
    FRACTION = 3
    PATTERN = 4


@dataclass(frozen=True)
class Subject:
    """The perturbations that an evaluation trains targets on, and all that the arms need.

    Attributes:
        name: `uc` for perturbations of this program, `protected` for those of another.
        config: its `target`, `evaluation` and `augment` are the recipe.
        data: the clean images and labels.
        perturbations: the evaluated perturbations.
        image_groups: int64 [N], the image groups that a scraper might average over: clusters, else
            classes.
        features: returns float32 [N, d] of the clean train images, from which superclasses are
            made.
        control: perturbations learned against a random surrogate, if that control is requested.
        facts: of the perturbations, if known: `run_seed`, `effective_batch`, `smallest_batch` and
            `optimizer_steps`.
        origin: what else decided the perturbations, as nested settings.
    """

    name: ArmName
    config: Config
    data: DataSet
    perturbations: Perturbations
    image_groups: NDArray[np.int64]
    features: Callable[[], NDArray[np.float32]]
    control: Perturbations | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def labellings(self) -> dict[str, DataSet]:
        """The data set under each of the requested labels."""
        requested = ("own", *self.config.evaluation.labels)
        seed = self.config.seed
        return {labels: relabel(labels, self.data, self.features, seed) for labels in requested}

    @cached_property
    def agreement(self) -> Agreement | None:
        """How much the clusters tell of the labels; None without clusters."""
        if self.name is not ArmName.UC:
            return None
        return measure_agreement(self.image_groups, self.data.train.labels)

    @cached_property
    def groups_are_classes(self) -> bool:
        """Whether the image groups are the classes of the data set, under other numbers at most."""
        pairs = np.unique(np.stack([self.image_groups, self.data.train.labels]), axis=1)
        return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)

    @cached_property
    def _fingerprints(self) -> dict[ArmName, str]:
        """Fingerprints of the perturbations, by the arms that depend on them."""
        own = self.perturbations.fingerprint()
        fingerprints = {self.name: own, ArmName.SHUFFLED: own}
        if self.control is not None:
            fingerprints[ArmName.RANDOM_SURROGATE] = self.control.fingerprint()
        return fingerprints

    @cached_property
    def _weights_hash(self) -> str | None:
        """Hash of the file with the target's initial weights, if there is one."""
        return hash_weights(self.config.target.weights)

    @cached_property
    def _image_groups_key(self) -> list[Any]:
        return [_sha256(self.image_groups), self.perturbations.eps]

    def inputs(self, spec: ArmSpec, ranks: int = 1) -> str:
        """Return the digest of all that decides an arm's result; `ranks` train each batch."""
        config, labelled = self.config, self.labellings[spec.labels]
        content: dict[str, Any] = {
            "recipe": [_RECIPE, config.augment.pad, config.augment.flip, ranks],
            "case": spec,
            "data": self.data.identity,
            "target": config.target.answer(),
        }
        if self._weights_hash is not None:
            content["weights"] = self._weights_hash
            content["target"]["weights"] = "file"
        if spec.labels != "own":
            labels = (labelled.train.labels, labelled.test.labels)
            content["labels"] = [len(labelled.classes), *map(_sha256, labels)]
        if spec.countermeasure is Countermeasure.ADVERSARIAL:
            content["adversarial"] = config.evaluation.adversarial.model_dump()
        if spec.arm in _OF_IMAGE_GROUPS or spec.countermeasure in _USES_IMAGE_GROUPS:
            content["groups"] = self._image_groups_key
        if spec.arm is ArmName.CLASS_NOISE:
            content["eps"] = self.perturbations.eps
        if spec.arm in self._fingerprints:
            content["perturbations"] = self._fingerprints[spec.arm]
        return digest(content)

    def with_facts(self, arm: Arm) -> Arm:
        """Return an arm with this subject's name, recipe and facts, whoever trained it."""
        config = self.config
        facts = dict(self.facts) if arm.arm in RUN_ARMS else {}
        if arm.countermeasure == Countermeasure.ADVERSARIAL:
            facts["countermeasure_settings"] = config.evaluation.adversarial.model_dump()
        return replace(arm, dataset=config.data.shown_as, recipe=self._recipe(arm.ranks), **facts)

    def _recipe(self, ranks: int) -> dict[str, Any]:
        """Return the settings that decide the training of a target by so many ranks."""
        target, augment = self.config.target.answer(), self.config.augment
        if self._weights_hash is not None:
            target["weights"] = f"file:{self._weights_hash}"
        views = {"pad": augment.pad, "flip": augment.flip}
        return {"target": target, "augment": views, "ranks": ranks, "version": _RECIPE}

    def train_images(self, spec: ArmSpec) -> tuple[Pixels, NDArray[np.int64]]:
        """Return the images that the scraper of an arm gets, before countermeasures.

        The unprotected images are repeated until they are as many as the whole set, so that every
        arm takes the same number of steps.

        Returns:
            uint8 [N, C, H, W], and int64 [N], their indices among the N train images.

        Raises:
            UserError: the fraction leaves no image unprotected.
        """
        images = self.data.train.images
        shape, eps = images.shape[1:], self.perturbations.eps
        everything = np.arange(len(images))
        match spec.arm:
            case ArmName.CLEAN:
                return images, everything
            case ArmName.UNPROTECTED:
                rest = _unprotected_indices(len(images), spec.fraction, spec.seed)
                if not len(rest):
                    raise UserError(
                        f"evaluation.fractions: {spec.fraction} leaves no image for the arm "
                        "'unprotected'; use a smaller fraction"
                    )
                rest = np.resize(rest, len(images))
                return images[rest], rest
            case ArmName.RANDOM_NOISE:
                perturbations = random_noise(self.image_groups, shape, eps, spec.seed)
            case ArmName.CLASS_NOISE:
                perturbations = random_noise(self.data.train.labels, shape, eps, spec.seed)
            case ArmName.PATTERN:
                perturbations = block_pattern(self.image_groups, shape, eps, spec.seed)
            case ArmName.SHUFFLED:
                order = draw(spec.seed, Purpose.CONTROL, Stream.SHUFFLE).permutation(len(images))
                assignment = self.perturbations.assignment[order]
                perturbations = replace(self.perturbations, assignment=assignment)
            case ArmName.RANDOM_SURROGATE:
                assert self.control is not None
                perturbations = self.control
            case _:
                perturbations = self.perturbations
        protected = protected_images(images, **vars(perturbations))
        if spec.fraction < 1:
            rest = _unprotected_indices(len(images), spec.fraction, spec.seed)
            protected[rest] = images[rest]
        return protected, everything


def protected_indices(count: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose which `fraction` of `count` images is protected; sorted.

    The choice for a larger fraction contains that for a smaller one.
    """
    order = draw(seed, Purpose.CONTROL, Stream.FRACTION).permutation(count)
    return np.sort(order[: round(fraction * count)])


def _unprotected_indices(count: int, fraction: float, seed: int) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(count), protected_indices(count, fraction, seed))


def random_noise(
    image_groups: NDArray[np.int64], shape: tuple[int, ...], eps: float, seed: int
) -> Perturbations:
    """Draw the control: each value of each image group's perturbation is `+eps` or `-eps`."""
    return _random_signs(Stream.NOISE, image_groups, shape, eps, seed)


def block_pattern(
    image_groups: NDArray[np.int64], shape: tuple[int, ...], eps: float, seed: int
) -> Perturbations:
    """Draw the control: 8 x 8 blocks of `+eps` or `-eps` in each channel, for each image group.

    No learning is in it, and a linear classifier separates the groups (Yu et al., KDD 2022, section
    4, who draw the blocks from a normal distribution).
    """
    channels, height, width = shape
    drawn = _random_signs(Stream.PATTERN, image_groups, (channels, _BLOCKS, _BLOCKS), eps, seed)
    rows, columns = (np.arange(size) * _BLOCKS // size for size in (height, width))
    return replace(drawn, delta=drawn.delta[:, :, rows[:, None], columns])


def _random_signs(
    stream: Stream, image_groups: NDArray[np.int64], shape: tuple[int, ...], eps: float, seed: int
) -> Perturbations:
    """Draw `+eps` or `-eps` for each value [shape] of each image group."""
    count = int(image_groups.max()) + 1
    signs = 2 * draw(seed, Purpose.CONTROL, stream).integers(2, size=(count, *shape)) - 1
    return Perturbations((eps * signs).astype(np.float32), image_groups, eps)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
