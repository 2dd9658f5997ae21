"""One arm's target: its images, labels and countermeasures, and the same recipe for every arm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch_ue.config.names import Countermeasure
from bigbatch_ue.evaluation import train_arm as module
from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.evaluation.train_arm import train_arm
from bigbatch_ue.networks.classifier import train_classifier
from tests.helpers.subjects import arm_spec, make_subject


def trained(subject: Subject, name: str, **changed: Any) -> Arm:
    return train_arm(arm_spec(name, **changed), subject, torch.device("cpu"))


def test_same_seed_same_network_other_seed_another(subject: Subject) -> None:
    one, again, other = (trained(subject, "clean", seed=seed) for seed in (0, 0, 1))
    assert one.accuracies == again.accuracies
    assert one.losses == again.losses != other.losses
    assert one.peak_accuracy == max(one.accuracies)
    assert one.final_accuracy == pytest.approx(one.accuracies[-1])
    assert np.array(one.confusion).sum() == len(subject.data.test) == 360
    correct = np.trace(np.array(one.confusion)) / 360
    assert one.final_accuracy == pytest.approx(correct)
    assert one.steps == 2 * 5
    assert one.images == 160


def test_unprotected_images_keep_their_own_labels(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def watching(model: Any, images: Any, labels: Any, *rest: Any, **named: Any) -> Any:
        given.append((images, labels))
        return train_classifier(model, images, labels, *rest, **named)

    monkeypatch.setattr(module, "train_classifier", watching)
    arm = trained(subject, "unprotected", fraction=0.4)
    _, kept = subject.train_images(arm_spec("unprotected", 0.4))
    images, labels = given[0]
    np.testing.assert_array_equal(images, subject.data.train.images[kept])
    np.testing.assert_array_equal(labels, subject.data.train.labels[kept])
    assert arm.images == 96
    assert arm.steps == 2 * 5


@pytest.fixture(scope="module")
def plain(subject: Subject) -> Arm:
    return trained(subject, "uc")


@pytest.mark.parametrize("countermeasure", ["mixup", "jpeg10", "adversarial", "projection"])
def test_countermeasures_change_what_is_learned(
    subject: Subject, plain: Arm, countermeasure: str
) -> None:
    countered = trained(subject, "uc", countermeasure=Countermeasure(countermeasure))
    assert countered.losses != plain.losses
    assert countered.countermeasure == countermeasure
    assert countered.steps == plain.steps


def test_other_labels_are_given_to_train_and_test_images(tmp_path: Path) -> None:
    labels = "evaluation.labels=['random:2', 'prototypes:3']"
    subject = make_subject(tmp_path, labels, "target.fit.epochs=10")
    arm = trained(subject, "clean", labels="random:2")
    assert np.array(arm.confusion).shape == (2, 2)
    assert arm.final_accuracy > 0.6
    other = trained(subject, "clean", labels="prototypes:3")
    assert np.array(other.confusion).shape == (3, 3)


def test_invariant_5_every_arm_has_one_recipe(tmp_path: Path) -> None:
    """Protected with no perturbation at all, a network is the clean one, bit for bit."""
    subject = make_subject(tmp_path, scale=0.0)
    arms = [trained(subject, name) for name in ("clean", "uc", "shuffled", "random_noise")]
    assert arms[0].accuracies == arms[1].accuracies == arms[2].accuracies
    assert arms[0].losses == arms[1].losses
    assert arms[3].losses != arms[0].losses
    assert len({arm.steps for arm in arms}) == 1
