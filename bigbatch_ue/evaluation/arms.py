"""Arms of an evaluation: what each target is trained on, and what came of it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.sections import EvaluationConfig
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.runtime.errors import UserError

ARM_NAMES = {
    ArmName.CLEAN: "clean",
    ArmName.RANDOM_NOISE: "random noise",
    ArmName.SHUFFLED: "shuffled clusters",
    ArmName.RANDOM_SURROGATE: "random surrogate",
    ArmName.UNPROTECTED: "unprotected part",
    ArmName.UC: "protected",
    ArmName.PROTECTED: "protected",
}
RUN_ARMS = (ArmName.SHUFFLED, ArmName.RANDOM_SURROGATE, ArmName.UC)
"""Arms that depend on a run's perturbations, and so on its effective batch."""


class ArmSpec(NamedTuple):
    """What one target is trained on.

    Attributes:
        arm: what was done to the train images.
        countermeasure: what the scraper does against it.
        fraction: share of the train images that are perturbed; for `unprotected`, that are absent.
        labels: `own`, or how train and test images are relabelled.
        seed: of the target, and of whatever else is random in the arm.
    """

    arm: ArmName
    countermeasure: Countermeasure
    fraction: float
    labels: str
    seed: int


def arm_title(case: "ArmSpec | Arm") -> str:
    """What a target is trained on, in words: `protected`, `protected 80%`, `clean jpeg75`, ..."""
    parts = [ARM_NAMES[ArmName(case.arm)]]
    share = 1 - case.fraction if case.arm == ArmName.UNPROTECTED else case.fraction
    if 0 < share < 1:
        parts.append(f"{share:.0%}")
    if case.countermeasure != Countermeasure.NONE:
        parts.append(case.countermeasure)
    if case.labels != "own":
        parts.append(case.labels)
    return " ".join(parts)


@dataclass(frozen=True)
class Arm:
    """One trained target, tested on the whole clean test set. Accuracies are fractions.

    Attributes:
        dataset: its name.
        arm: what was done to the train images, an `ArmName`.
        countermeasure: what the scraper did against it.
        fraction: share of the train images that are perturbed; for `unprotected`, that are absent.
        labels: `own`, or how train and test images are relabelled.
        target: timm model, and where its weights came from unless it is trained from scratch.
        seed: of the target: initial weights, order and views, alike in every arm.
        final_accuracy: on the test set after the last epoch.
        peak_accuracy: after the best epoch.
        tail_mean: mean over the last quarter of the epochs.
        tail_std: standard deviation over it (ddof 0), the oscillation within a run.
        train_accuracy: on the arm's own train images as trained on, after the last epoch.
        balanced_accuracy: mean of the classes' recalls, after the last epoch.
        auc: macro area under the one-against-rest ROC curves, after the last epoch.
        accuracies: on the test set after each epoch.
        losses: mean train loss of each epoch.
        confusion: test images by true class (rows) and predicted class, after the last epoch.
        steps: optimizer steps of the target.
        images: different train images.
        seconds: of the target's training, tests included.
        ranks: that trained each batch together.
        device: where it was trained.
        run_seed: of the perturbations; None where there are none of a run.
        effective_batch: of the generators; None where there are none.
        optimizer_steps: of the generators; 0 where there are none.
        inputs: digest of what decides the answer.
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

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this record from others of one evaluation."""
        return (*self.group, self.seed)

    @property
    def group(self) -> tuple[Any, ...]:
        """What arms share that differ in their seeds only."""
        kind = (self.arm, self.countermeasure, self.fraction, self.labels)
        return (self.dataset, self.target, *kind, self.effective_batch)


def arm_specs(settings: EvaluationConfig, own: ArmName) -> Iterator[ArmSpec]:
    """The arms of an evaluation, seed by seed; `own` is the arm of the perturbations judged.

    Controls come once; partial protection with and without the protected part; countermeasures and
    other labels on the arms of `settings.countered`.
    """
    none = Countermeasure.NONE
    wanted = _own(settings.arms, own)
    countered = [arm for arm in _own(settings.countered, own) if arm in wanted]
    for seed in settings.seeds:
        for arm in wanted:
            if arm not in (own, ArmName.UNPROTECTED):
                yield ArmSpec(arm, none, _perturbed_fraction(arm), "own", seed)
        for fraction in settings.fractions:
            if ArmName.UNPROTECTED in wanted and fraction < 1:
                yield ArmSpec(ArmName.UNPROTECTED, none, fraction, "own", seed)
            if own in wanted:
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
    """The records of a `results.json`.

    Raises:
        UserError: a file that is missing, torn or of another kind.
    """
    records = read_json(path, list)
    try:
        arms = [_ARM.validate_python(record) for record in records]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: no list of arms ({first['loc']}: {first['msg']}); remove it"
        ) from None
    for arm in arms:
        if arm.arm not in ARM_NAMES or arm.countermeasure not in set(Countermeasure):
            what = f"{arm.arm} under {arm.countermeasure}"
            raise UserError(f"{path}: no list of arms (unknown {what}); remove it")
        classes = len(arm.confusion)
        if not arm.accuracies or not classes or any(len(row) != classes for row in arm.confusion):
            raise UserError(f"{path}: no list of arms ({arm_title(arm)}: no results); remove it")
    return arms


def save_arms(path: Path, arms: Sequence[Arm]) -> None:
    """Write `arms` as a list of records, atomically."""
    write_json(path, [asdict(arm) for arm in arms])


def _own(arms: Sequence[ArmName], own: ArmName) -> list[ArmName]:
    """`arms` for perturbations of the kind `own`: foreign ones have no surrogate to replace."""
    if own is ArmName.UC:
        return [arm for arm in arms if arm is not ArmName.PROTECTED]
    named = [own if arm is ArmName.UC else arm for arm in arms]
    return [arm for arm in named if arm is not ArmName.RANDOM_SURROGATE]


def _perturbed_fraction(arm: ArmName) -> float:
    return 0.0 if arm is ArmName.CLEAN else 1.0
