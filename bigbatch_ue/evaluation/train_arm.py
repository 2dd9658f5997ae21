"""Training and test of one arm's target network."""

import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from bigbatch_ue.config.evaluation_sections import TargetConfig
from bigbatch_ue.config.names import Countermeasure
from bigbatch_ue.data.source import Labels, Pixels
from bigbatch_ue.evaluation.arms import Arm, ArmSpec, arm_title
from bigbatch_ue.evaluation.countermeasures import batch_transform, pgd, preprocess_images
from bigbatch_ue.evaluation.metrics import measure, tail_statistics
from bigbatch_ue.evaluation.subject import Stream, Subject
from bigbatch_ue.evaluation.target import build_target
from bigbatch_ue.networks.classifier import LearningCurve, train_classifier
from bigbatch_ue.networks.inference import accuracy, precision_of_training, predict
from bigbatch_ue.networks.recipe import TrainingSettings, training_steps
from bigbatch_ue.reporting.words import percent
from bigbatch_ue.runtime.progress import progress
from bigbatch_ue.runtime.randomness import Purpose, torch_seed


def train_arm(
    spec: ArmSpec,
    subject: Subject,
    device: torch.device,
    *,
    number: str = "",
    ranks: Accelerator | None = None,
) -> Arm:
    """Train and test the target of one arm.

    Initial weights, order and views depend only on the arm's seed. They differ from those of a
    surrogate that was trained with the same seed: a scraper would not have that very network.

    Args:
        spec: the arm.
        subject: the evaluated perturbations.
        device: where to train.
        number: text before the title of the progress bar, such as `2/7`.
        ranks: ranks that train each batch together; None: this process alone.

    Returns:
        The arm, without the facts of the run that learned the perturbations.
    """
    config, test = subject.config, subject.labellings[spec.labels].test
    train = _train_set(spec, subject)
    seed = torch_seed(spec.seed, Purpose.CONTROL, Stream.TARGET)
    settings = TrainingSettings(config.target.fit, config.augment, seed, device, ranks)
    title = f"{number} {arm_title(spec)}, seed {spec.seed}".strip()
    began = time.perf_counter()
    model, curve = _train_target(spec, subject, train, settings, title)
    with progress(f"testing {title}"):
        measures = measure(predict(model, test.images, device, ranks), test.labels)
        train_accuracy = accuracy(model, train.images, train.labels, device, ranks)
    tail_mean, tail_std = tail_statistics(curve.accuracies)
    world_size = settings.world_size
    return Arm(
        dataset=config.data.shown_as,
        **spec._asdict(),
        target=_target_name(config.target),
        final_accuracy=measures.accuracy,
        peak_accuracy=max(curve.accuracies),
        tail_mean=tail_mean,
        tail_std=tail_std,
        train_accuracy=train_accuracy,
        balanced_accuracy=measures.balanced_accuracy,
        auc=measures.auc,
        **curve._asdict(),
        confusion=measures.confusion,
        steps=training_steps(settings.recipe, len(train.images), world_size),
        images=len(np.unique(train.indices)),
        seconds=round(time.perf_counter() - began, 3),
        ranks=world_size,
        device=device.type,
        precision=precision_of_training(device),
        inputs=subject.inputs(spec, world_size),
    )


class _TrainSet(NamedTuple):
    """The images and labels that a target is trained on.

    Attributes:
        images: uint8 [N, C, H, W], after countermeasures that change all images.
        labels: int64 [N].
        indices: int64 [N], position of each image among the train images of the data set.
    """

    images: Pixels
    labels: Labels
    indices: NDArray[np.int64]


def _train_set(spec: ArmSpec, subject: Subject) -> _TrainSet:
    images, indices = subject.train_images(spec)
    images = preprocess_images(
        spec.countermeasure,
        images,
        image_groups=subject.image_groups[indices],
        eps=subject.perturbations.eps,
    )
    return _TrainSet(images, subject.labellings[spec.labels].train.labels[indices], indices)


def _train_target(
    spec: ArmSpec, subject: Subject, train: _TrainSet, settings: TrainingSettings, title: str
) -> tuple[nn.Module, LearningCurve]:
    """Build the target network and train it, with a progress bar named `title`."""
    config, labelled = subject.config, subject.labellings[spec.labels]
    classes, test = len(labelled.classes), labelled.test
    model = build_target(
        config.target,
        train.images,
        classes,
        augment=settings.augment,
        seed=settings.seed,
        device=settings.device,
    )
    attack = None
    if spec.countermeasure is Countermeasure.ADVERSARIAL:
        attack = partial(pgd, **config.evaluation.adversarial.model_dump())
    total = settings.recipe.epochs * len(train.images)
    with progress(title, "images", total, kept=True) as stage:

        def on_epoch(_: int, test_accuracy: float | None) -> None:
            stage.remark = f"{percent(test_accuracy)} %"

        curve = train_classifier(
            model,
            train.images,
            train.labels,
            settings,
            test=(test.images, test.labels),
            on_epoch=on_epoch,
            on_images=stage.advance,
            transform=batch_transform(spec.countermeasure, classes),
            attack=attack,
        )
    return model, curve


def _target_name(config: TargetConfig) -> str:
    kind = config.weights.partition(":")[0]
    return config.model if kind == "scratch" else f"{config.model} {kind}"
