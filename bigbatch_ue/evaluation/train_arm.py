"""Train and test the target network of one arm."""

import time
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator

from bigbatch_ue.config.names import Countermeasure
from bigbatch_ue.config.schema import Config
from bigbatch_ue.evaluation.arms import Arm, ArmSpec, arm_title
from bigbatch_ue.evaluation.countermeasures import batch_transform, pgd, preprocess_images
from bigbatch_ue.evaluation.metrics import measure, tail_statistics
from bigbatch_ue.evaluation.subject import _TARGET, Subject
from bigbatch_ue.evaluation.target import build_target
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.inference import accuracy, predict
from bigbatch_ue.networks.recipe import training_steps
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.randomness import Purpose, torch_seed


def train_arm(
    case: ArmSpec,
    subject: Subject,
    device: torch.device,
    *,
    number: str = "",
    ranks: Accelerator | None = None,
) -> Arm:
    """Train and test the target of one arm.

    Initial weights, order and views depend on the case's seed only, and differ from those of a
    surrogate that was fitted with the same seed: a scraper would not have that very network.

    Args:
        case: which arm.
        subject: whose perturbations are judged.
        device: where to train.
        number: in front of the progress bar.
        ranks: that train each batch together, if they do.

    Returns:
        The arm, without what only its run knows.
    """
    config, labelled = subject.config, subject.labellings[case.labels]
    images, kept = subject.train_images(case)
    images = preprocess_images(
        case.countermeasure, images, groups=subject.groups[kept], eps=subject.learnt.eps
    )
    labels, test = labelled.train.labels[kept], labelled.test
    recipe, classes = config.target.fit, len(labelled.classes)
    seed = torch_seed(case.seed, Purpose.CONTROL, _TARGET)
    began = time.perf_counter()
    model = build_target(
        config.target, images, classes, augment=config.augment, seed=seed, device=device
    )
    attack = None
    if case.countermeasure is Countermeasure.ADVERSARIAL:
        attack = partial(pgd, **config.evaluation.adversarial.model_dump())
    with progress_bar() as progress:
        what = f"{number} {arm_title(case)}, seed {case.seed}".strip()
        task = progress.add_task(what, total=recipe.epochs)

        def on_epoch(_: int, reached: float | None) -> None:
            progress.update(task, advance=1, description=f"{what}: {reached:.1%}")

        curve = train_classifier(
            model,
            images,
            labels,
            recipe=recipe,
            augment=config.augment,
            seed=seed,
            device=device,
            test=(test.images, test.labels),
            on_epoch=on_epoch,
            transform=batch_transform(case.countermeasure, classes),
            attack=attack,
            ranks=ranks,
        )
    measures = measure(predict(model, test.images, device, ranks), test.labels)
    tail_mean, tail_std = tail_statistics(curve.accuracies)
    world = ranks.num_processes if ranks else 1
    return Arm(
        dataset=config.data.title,
        **case._asdict(),
        target=_target_name(config),
        final_accuracy=measures.accuracy,
        peak_accuracy=max(curve.accuracies),
        tail_mean=tail_mean,
        tail_std=tail_std,
        train_accuracy=accuracy(model, images, labels, device, ranks),
        balanced_accuracy=measures.balanced_accuracy,
        auc=measures.auc,
        **curve._asdict(),
        confusion=measures.confusion,
        steps=training_steps(recipe, len(images), world),
        images=len(np.unique(kept)),
        seconds=round(time.perf_counter() - began, 3),
        ranks=world,
        device=device.type,
        inputs=subject.inputs(case, world),
    )


def _target_name(config: Config) -> str:
    kind = config.target.weights.partition(":")[0]
    return config.target.model if kind == "scratch" else f"{config.target.model} {kind}"
