"""What the scraper of each arm gets, and one arm's target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.evaluation import train_arm as module
from bigbatch_ue.evaluation.arms import Arm, ArmSpec
from bigbatch_ue.evaluation.subject import Subject, protected_part, random_noise
from bigbatch_ue.evaluation.train_arm import train_arm
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.protection.perturbations import (
    Perturbations,
    load_perturbations,
    protected_images,
    to_eight_bit,
)
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.runs import SMALL, make_run

CPU = torch.device("cpu")
NONE = Countermeasure.NONE


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def subject_of(folder: Path, *overrides: str, scale: float = 1.0) -> Subject:
    """Random perturbations of digits, and as the control those of half the size."""
    config, run = load_run(make_run(folder, *SMALL, scale=scale))
    config = revise_evaluation(config, overrides=overrides)
    data = prepare_dataset(config.data)
    learnt = load_perturbations(config, run, data)
    control = Perturbations(learnt.delta / 2, learnt.assignment[::-1].copy(), learnt.eps)
    facts = {"run_seed": 5, "effective_batch": 4, "optimizer_steps": 7}

    def features() -> np.ndarray[Any, Any]:
        return data.train.images.reshape(160, -1).astype(np.float32)

    return Subject(ArmName.UC, config, data, learnt, learnt.assignment, features, control, facts)


def case(arm: str, fraction: float = 1.0, seed: int = 0, **changed: Any) -> ArmSpec:
    return ArmSpec(ArmName(arm), NONE, fraction, "own", seed)._replace(**changed)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject_of(tmp_path_factory.mktemp("subject"))


@pytest.mark.parametrize("eps", [16 / 255, 0.05])
def test_random_noise_is_eps_of_random_sign_for_each_group(eps: float) -> None:
    groups = np.arange(8) % 4
    noise = random_noise(groups, (3, 32, 32), eps, 0)
    units = to_eight_bit(noise.delta, eps)
    assert set(np.unique(units)) == {-int(255 * eps + 1e-6), int(255 * eps + 1e-6)}
    assert abs(np.sign(units).mean()) < 0.05
    grey = np.full((8, 3, 32, 32), 128, np.uint8)
    images = protected_images(grey, **vars(noise))
    np.testing.assert_array_equal(images[0], images[4])
    assert (images[0] != images[1]).any()
    assert (random_noise(groups, (3, 32, 32), eps, 1).delta != noise.delta).any()
    np.testing.assert_array_equal(random_noise(groups, (3, 32, 32), eps, 0).delta, noise.delta)


def test_each_arm_gets_its_own_images(subject: Subject) -> None:
    clean = subject.data.train.images
    full = protected_images(clean, **vars(subject.learnt))
    whole = [name for name in ArmName if name is not ArmName.UNPROTECTED]
    given = {name: subject.train_images(case(name))[0] for name in whole}
    np.testing.assert_array_equal(given["clean"], clean)
    np.testing.assert_array_equal(given["uc"], full)
    assert subject.control is not None
    control = protected_images(clean, **vars(subject.control))
    np.testing.assert_array_equal(given["random_surrogate"], control)
    for name in ("random_noise", "uc", "shuffled"):
        assert np.abs(given[name].astype(int) - clean).max() == 16


def test_shuffled_images_carry_the_same_perturbations_of_other_clusters(subject: Subject) -> None:
    grey = np.full((160, 1, 8, 8), 128, np.uint8)
    flat = Subject(**{**vars_of(subject), "data": with_images(subject, grey)})
    before, after = (flat.train_images(case(name))[0] for name in ("uc", "shuffled"))
    assert (before != after).any(axis=(1, 2, 3)).mean() > 0.4
    np.testing.assert_array_equal(*(np.sort(x.reshape(160, -1), axis=0) for x in (before, after)))
    other = flat.train_images(case("shuffled", seed=1))[0]
    assert (other != after).any()


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8])
def test_partial_protection_and_the_rest_share_out_the_images(
    subject: Subject, fraction: float
) -> None:
    clean = subject.data.train.images
    partial, everything = subject.train_images(case("uc", fraction))
    rest, kept = subject.train_images(case("unprotected", fraction))
    part = protected_part(160, fraction, 0)
    assert len(part) == round(160 * fraction)
    assert everything.tolist() == list(range(160))
    assert len(kept) == 160
    assert sorted([*part, *set(kept)]) == list(range(160))
    times = np.bincount(kept)[np.unique(kept)]
    assert times.max() - times.min() <= 1
    np.testing.assert_array_equal(rest, clean[kept])
    np.testing.assert_array_equal(partial[kept], clean[kept])
    full = protected_images(clean, **vars(subject.learnt))
    np.testing.assert_array_equal(partial[part], full[part])


def test_a_fraction_that_leaves_nothing_over_is_a_user_error(subject: Subject) -> None:
    with pytest.raises(UserError, match="leaves no image over"):
        subject.train_images(case("unprotected", 0.999))


def test_protected_parts_are_nested_and_seeded() -> None:
    parts = [set(protected_part(1000, fraction, 0)) for fraction in (0.2, 0.4, 1.0)]
    assert parts[0] < parts[1] < parts[2] == set(range(1000))
    assert parts[0] != set(protected_part(1000, 0.2, 1))


def test_inputs_tell_arms_apart_and_nothing_else(tmp_path: Path, subject: Subject) -> None:
    base = subject.inputs(case("uc"))
    assert subject_of(tmp_path / "again").inputs(case("uc")) == base
    weaker = subject_of(tmp_path / "weaker", scale=0.5)
    longer = subject_of(tmp_path / "longer", "target.fit.epochs=3")
    for name in ("uc", "shuffled"):
        assert weaker.inputs(case(name)) != subject.inputs(case(name))
    for name in ("clean", "random_noise", "unprotected"):
        fraction = 0.8 if name == "unprotected" else 1.0
        assert weaker.inputs(case(name, fraction)) == subject.inputs(case(name, fraction))
        assert longer.inputs(case(name, fraction)) != subject.inputs(case(name, fraction))
    attacked = case("uc", countermeasure=Countermeasure.ADVERSARIAL)
    stronger = subject_of(tmp_path / "s", "evaluation.adversarial.eps=0.2")
    assert stronger.inputs(attacked) != subject.inputs(attacked)
    assert stronger.inputs(case("uc")) == base
    different = {
        base,
        subject.inputs(case("uc", seed=1)),
        subject.inputs(case("uc", 0.4)),
        subject.inputs(case("shuffled")),
        subject.inputs(attacked),
        subject.inputs(case("uc"), ranks=2),
    }
    assert len(different) == 6


def test_facts_of_the_run_go_with_its_perturbations_alone(subject: Subject) -> None:
    uc, clean = (subject.own(trained(subject, name)) for name in ("uc", "clean"))
    assert (uc.run_seed, uc.effective_batch, uc.optimizer_steps) == (5, 4, 7)
    assert (clean.run_seed, clean.effective_batch, clean.optimizer_steps) == (None, None, 0)
    assert uc.dataset == "digits"


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


def test_unprotected_part_keeps_its_own_labels(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def watching(model: Any, images: Any, labels: Any, *rest: Any, **named: Any) -> Any:
        given.append((images, labels))
        return train_classifier(model, images, labels, *rest, **named)

    monkeypatch.setattr(module, "train_classifier", watching)
    arm = trained(subject, "unprotected", fraction=0.4)
    _, kept = subject.train_images(case("unprotected", 0.4))
    images, labels = given[0]
    np.testing.assert_array_equal(images, subject.data.train.images[kept])
    np.testing.assert_array_equal(labels, subject.data.train.labels[kept])
    assert arm.images == 96
    assert arm.steps == 2 * 5


@pytest.mark.parametrize("countermeasure", ["mixup", "jpeg10", "adversarial", "projection"])
def test_countermeasures_change_what_is_learned(subject: Subject, countermeasure: str) -> None:
    plain = trained(subject, "uc")
    countered = trained(subject, "uc", countermeasure=Countermeasure(countermeasure))
    assert countered.losses != plain.losses
    assert countered.countermeasure == countermeasure
    assert countered.steps == plain.steps


def test_other_labels_are_given_to_train_and_test_images(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "evaluation.labels=['random:2', 'prototypes:3']")
    arm = trained(subject, "clean", labels="random:2")
    assert np.array(arm.confusion).shape == (2, 2)
    assert arm.final_accuracy > 0.5
    other = trained(subject, "clean", labels="prototypes:3")
    assert np.array(other.confusion).shape == (3, 3)


def test_invariant_5_every_arm_has_one_recipe(tmp_path: Path) -> None:
    """Protected with no perturbation at all, a network is the clean one, bit for bit."""
    subject = subject_of(tmp_path, scale=0.0)
    arms = [trained(subject, name) for name in ("clean", "uc", "shuffled", "random_noise")]
    assert arms[0].accuracies == arms[1].accuracies == arms[2].accuracies
    assert arms[0].losses == arms[1].losses
    assert arms[3].losses != arms[0].losses
    assert len({arm.steps for arm in arms}) == 1


def trained(subject: Subject, name: str, **changed: Any) -> Arm:
    return train_arm(case(name, **changed), subject, CPU)


def vars_of(subject: Subject) -> dict[str, Any]:
    return {name: getattr(subject, name) for name in subject.__dataclass_fields__}


def with_images(subject: Subject, images: np.ndarray[Any, Any]) -> Any:
    return replace(subject.data, train=replace(subject.data.train, images=images))
