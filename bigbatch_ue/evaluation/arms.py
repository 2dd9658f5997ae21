"""Arms of an evaluation: the training images of each target network, and its results."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bigbatch_ue.config.evaluation_sections import EvaluationConfig
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.runtime.errors import UserError

ARM_NAMES = {
    ArmName.CLEAN: "clean",
    ArmName.RANDOM_NOISE: "random noise",
    ArmName.CLASS_NOISE: "class noise",
    ArmName.PATTERN: "block pattern",
    ArmName.SHUFFLED: "shuffled clusters",
    ArmName.RANDOM_SURROGATE: "random surrogate",
    ArmName.UNPROTECTED: "unprotected part",
    ArmName.UC: "protected",
    ArmName.PROTECTED: "protected",
}
RUN_ARMS = (ArmName.SHUFFLED, ArmName.RANDOM_SURROGATE, ArmName.UC)
"""Arms that depend on the perturbations of a run, and therefore on its effective batch."""


class ArmSpec(NamedTuple):
    """The settings of one arm; the order of the fields is part of the digest of its inputs.

    Attributes:
        arm: treatment of the train images.
        countermeasure: countermeasure of the scraper.
        fraction: fraction of the train images that are perturbed; for `unprotected`, that are
            absent.
        labels: `own`, or the rule that relabels train and test images.
        seed: seed of the target, and of everything else that is random in the arm.
    """

    arm: ArmName
    countermeasure: Countermeasure
    fraction: float
    labels: str
    seed: int


def arm_title(arm: "ArmSpec | Arm") -> str:
    """Describe an arm in words: `protected`, `protected 80%`, `clean jpeg75`, ..."""
    parts = [ARM_NAMES[ArmName(arm.arm)]]
    fraction = 1 - arm.fraction if arm.arm == ArmName.UNPROTECTED else arm.fraction
    if 0 < fraction < 1:
        parts.append(f"{fraction:.0%}")
    if arm.countermeasure != Countermeasure.NONE:
        parts.append(arm.countermeasure)
    if arm.labels != "own":
        parts.append(arm.labels)
    return " ".join(parts)


@dataclass(frozen=True)
class Arm:
    """One trained target, tested on the whole clean test set. Accuracies are fractions.

    Attributes:
        dataset: name of the data set.
        arm: treatment of the train images, an `ArmName`.
        countermeasure: countermeasure of the scraper, a `Countermeasure`.
        fraction: fraction of the train images that are perturbed; for `unprotected`, that are
            absent.
        labels: `own`, or the rule that relabels train and test images.
        target: timm model, and the origin of its weights unless it is trained from scratch.
        seed: seed of the target: initial weights, order and views, the same in every arm.
        final_accuracy: test accuracy after the last epoch.
        peak_accuracy: test accuracy after the best epoch.
        tail_mean: mean test accuracy over the last quarter of the epochs.
        tail_std: standard deviation over it (ddof 0), a trend included.
        train_accuracy: accuracy on the arm's own train images and labels after the last epoch.
        balanced_accuracy: mean recall of the classes after the last epoch.
        auc: macro area under the one-against-rest ROC curves after the last epoch.
        accuracies: test accuracy after each epoch.
        losses: mean training loss of each epoch.
        confusion: test images by true class (rows) and predicted class, after the last epoch.
        steps: optimizer steps of the target.
        images: number of different train images.
        seconds: time to train and test the target.
        ranks: number of ranks that trained each batch together.
        device: type of the device it was trained on.
        precision: `bf16` or `float32`, of the layers of the target; empty in older records.
        run_seed: seed of the run that learned the perturbations; None without such a run.
        effective_batch: effective batch of the generators, the largest one where small clusters
            cap it; None without them.
        optimizer_steps: optimizer steps of the generators; 0 without them.
        inputs: digest of everything that decides the result.
        recipe: settings that decide the training of the target, by their names; empty in records of
            earlier versions.
        countermeasure_settings: those of the countermeasure, if it has any.
        smallest_batch: effective batch of the generator of the smallest cluster; None without
            generators, and in older records.
    """

    dataset: str
    arm: str
    countermeasure: str
    fraction: float
    labels: str
    target: str
    seed: int
    final_accuracy: float
    peak_accuracy: float
    tail_mean: float
    tail_std: float
    train_accuracy: float
    balanced_accuracy: float
    auc: float
    accuracies: list[float]
    losses: list[float]
    confusion: list[list[int]]
    steps: int
    images: int
    seconds: float
    ranks: int = 1
    device: str = "cpu"
    run_seed: int | None = None
    effective_batch: int | None = None
    optimizer_steps: int = 0
    inputs: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    countermeasure_settings: dict[str, Any] = field(default_factory=dict)
    smallest_batch: int | None = None
    precision: str = ""

    @property
    def trained_in(self) -> str:
        """The precision; of older records that of their kind of device."""
        return self.precision or ("bf16" if self.device == "cuda" else "float32")

    @property
    def batches(self) -> tuple[int, ...]:
        """Smallest and largest effective batch of a generator; empty without generators."""
        if self.effective_batch is None:
            return ()
        return self.smallest_batch or self.effective_batch, self.effective_batch

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of this record within one evaluation."""
        return (*self.seed_group, self.seed)

    @property
    def seed_group(self) -> tuple[Any, ...]:
        """Identity of the seed group: equal for arms that differ only in their seeds."""
        kind = (self.arm, self.countermeasure, self.fraction, self.labels)
        settings = (digest(self.recipe), digest(self.countermeasure_settings))
        return (self.dataset, self.target, *kind, self.effective_batch, *settings)


def arm_specs(settings: EvaluationConfig, own: ArmName) -> Iterator[ArmSpec]:
    """Yield the arms of an evaluation, seed by seed.

    Each control comes once. Partial protection comes with and without the protected fraction of
    the images. Countermeasures and other labels are applied to the arms of `settings.countered`.

    Args:
        settings: the requested arms, fractions, countermeasures, labels and seeds.
        own: the arm of the evaluated perturbations.
    """
    none = Countermeasure.NONE
    requested = _resolve_own(settings.arms, own)
    countered = [arm for arm in _resolve_own(settings.countered, own) if arm in requested]
    for seed in settings.seeds:
        for arm in requested:
            if arm not in (own, ArmName.UNPROTECTED):
                yield ArmSpec(arm, none, _perturbed_fraction(arm), "own", seed)
        for fraction in settings.fractions:
            if ArmName.UNPROTECTED in requested and fraction < 1:
                yield ArmSpec(ArmName.UNPROTECTED, none, fraction, "own", seed)
            if own in requested:
                yield ArmSpec(own, none, fraction, "own", seed)
        for countermeasure in settings.countermeasures:
            if countermeasure != none:
                for arm in countered:
                    yield ArmSpec(arm, countermeasure, _perturbed_fraction(arm), "own", seed)
        for labels in settings.labels:
            if labels != "own":
                for arm in countered:
                    yield ArmSpec(arm, none, _perturbed_fraction(arm), labels, seed)


_ARM = TypeAdapter(Arm)


def load_arms(path: Path) -> list[Arm]:
    """Read the records of a `results.json`.

    Raises:
        UserError: the file is missing, torn or of another kind.
    """
    records = read_json(path, list)
    try:
        arms = [_ARM.validate_python(record) for record in records]
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid(path, f"{first['loc']}: {first['msg']}") from None
    for arm in arms:
        if arm.arm not in ARM_NAMES or arm.countermeasure not in set(Countermeasure):
            raise _invalid(path, f"unknown: {arm.arm} under {arm.countermeasure}")
        classes = len(arm.confusion)
        if not arm.accuracies or not classes or any(len(row) != classes for row in arm.confusion):
            raise _invalid(path, f"{arm_title(arm)}: no results")
    return arms


def save_arms(path: Path, arms: Sequence[Arm]) -> None:
    """Write `arms` as a list of records, atomically."""
    write_json(path, [asdict(arm) for arm in arms])


def _invalid(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a valid list of arms ({reason}); delete it")


def _resolve_own(arms: Sequence[ArmName], own: ArmName) -> list[ArmName]:
    """Replace the arm of a run's perturbations by `own`.

    External perturbations have no surrogate, so the control with a random one is dropped.
    """
    if own is ArmName.UC:
        return [arm for arm in arms if arm is not ArmName.PROTECTED]
    resolved = [own if arm is ArmName.UC else arm for arm in arms]
    return [arm for arm in resolved if arm is not ArmName.RANDOM_SURROGATE]


def _perturbed_fraction(arm: ArmName) -> float:
    return 0.0 if arm is ArmName.CLEAN else 1.0
