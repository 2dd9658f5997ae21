"""The images of each arm, and the digest of its inputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.evaluation.subject import (
    Subject,
    block_pattern,
    protected_indices,
    random_noise,
)
from bigbatch_ue.protection.perturbations import protected_images, to_eight_bit
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import arm
from tests.helpers.subjects import arm_spec, make_subject


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


@pytest.mark.parametrize(("size", "sides"), [(8, {1}), (28, {3, 4}), (64, {8})])
def test_a_block_pattern_is_8_by_8_blocks_of_eps_for_each_group(size: int, sides: set[int]) -> None:
    groups = np.arange(6) % 3
    pattern = block_pattern(groups, (3, size, size), 0.05, 0)
    assert pattern.delta.shape == (3, 3, size, size)
    assert set(np.unique(np.abs(pattern.delta))) == {np.float32(0.05)}
    edges = np.flatnonzero((np.diff(pattern.delta, axis=2) != 0).any(axis=(0, 1, 3))) + 1
    assert set(np.diff([0, *edges, size])) <= {n * side for side in sides for n in (1, 2)} | sides
    assert len(edges) == 7
    assert (block_pattern(groups, (3, size, size), 0.05, 1).delta != pattern.delta).any()


def test_class_noise_is_one_pattern_for_each_class_whatever_the_clusters(subject: Subject) -> None:
    train = replace(subject.data.train, images=np.full((160, 1, 8, 8), 128, np.uint8))
    flat = replace(subject, data=replace(subject.data, train=train))
    noisy = flat.train_images(arm_spec("class_noise"))[0]
    for label in range(10):
        own = noisy[train.labels == label]
        assert (own == own[0]).all()
    assert len(np.unique(noisy.reshape(160, -1), axis=0)) == len(np.unique(train.labels))
    assert not subject.groups_are_classes
    assert replace(subject, image_groups=9 - train.labels).groups_are_classes


def test_each_arm_gets_its_own_images(subject: Subject) -> None:
    clean = subject.data.train.images
    full = protected_images(clean, **vars(subject.perturbations))
    whole = [name for name in ArmName if name is not ArmName.UNPROTECTED]
    given = {name: subject.train_images(arm_spec(name))[0] for name in whole}
    np.testing.assert_array_equal(given["clean"], clean)
    np.testing.assert_array_equal(given["uc"], full)
    assert subject.control is not None
    control = protected_images(clean, **vars(subject.control))
    np.testing.assert_array_equal(given["random_surrogate"], control)
    for name in ("random_noise", "class_noise", "pattern", "uc", "shuffled"):
        assert np.abs(given[name].astype(int) - clean).max() == 16


def test_shuffled_images_carry_the_same_perturbations_of_other_clusters(subject: Subject) -> None:
    train = replace(subject.data.train, images=np.full((160, 1, 8, 8), 128, np.uint8))
    flat = replace(subject, data=replace(subject.data, train=train))
    before, after = (flat.train_images(arm_spec(name))[0] for name in ("uc", "shuffled"))
    assert (before != after).any(axis=(1, 2, 3)).mean() > 0.4
    np.testing.assert_array_equal(*(np.sort(x.reshape(160, -1), axis=0) for x in (before, after)))
    other = flat.train_images(arm_spec("shuffled", seed=1))[0]
    assert (other != after).any()


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8])
def test_partial_protection_and_the_rest_divide_the_images(
    subject: Subject, fraction: float
) -> None:
    clean = subject.data.train.images
    partial, everything = subject.train_images(arm_spec("uc", fraction))
    rest, kept = subject.train_images(arm_spec("unprotected", fraction))
    chosen = protected_indices(160, fraction, 0)
    assert len(chosen) == round(160 * fraction)
    assert everything.tolist() == list(range(160))
    assert len(kept) == 160
    assert sorted([*chosen, *set(kept)]) == list(range(160))
    times = np.bincount(kept)[np.unique(kept)]
    assert times.max() - times.min() <= 1
    np.testing.assert_array_equal(rest, clean[kept])
    np.testing.assert_array_equal(partial[kept], clean[kept])
    full = protected_images(clean, **vars(subject.perturbations))
    np.testing.assert_array_equal(partial[chosen], full[chosen])


def test_a_fraction_that_leaves_no_image_is_a_user_error(subject: Subject) -> None:
    with pytest.raises(UserError, match="leaves no image for the arm"):
        subject.train_images(arm_spec("unprotected", 0.999))


def test_protected_fractions_are_nested_and_seeded() -> None:
    parts = [set(protected_indices(1000, fraction, 0)) for fraction in (0.2, 0.4, 1.0)]
    assert parts[0] < parts[1] < parts[2] == set(range(1000))
    assert parts[0] != set(protected_indices(1000, 0.2, 1))


def test_inputs_differ_between_arms_and_not_otherwise(tmp_path: Path, subject: Subject) -> None:
    base = subject.inputs(arm_spec("uc"))
    assert make_subject(tmp_path / "again").inputs(arm_spec("uc")) == base
    weaker = make_subject(tmp_path / "weaker", scale=0.5)
    longer = make_subject(tmp_path / "longer", "target.fit.epochs=3")
    for name in ("uc", "shuffled"):
        assert weaker.inputs(arm_spec(name)) != subject.inputs(arm_spec(name))
    for name in ("clean", "random_noise", "unprotected"):
        fraction = 0.8 if name == "unprotected" else 1.0
        assert weaker.inputs(arm_spec(name, fraction)) == subject.inputs(arm_spec(name, fraction))
        assert longer.inputs(arm_spec(name, fraction)) != subject.inputs(arm_spec(name, fraction))
    attacked = arm_spec("uc", countermeasure=Countermeasure.ADVERSARIAL)
    stronger = make_subject(tmp_path / "s", "evaluation.adversarial.eps=0.2")
    assert stronger.inputs(attacked) != subject.inputs(attacked)
    assert stronger.inputs(arm_spec("uc")) == base
    different = {
        base,
        subject.inputs(arm_spec("uc", seed=1)),
        subject.inputs(arm_spec("uc", 0.4)),
        subject.inputs(arm_spec("shuffled")),
        subject.inputs(attacked),
        subject.inputs(arm_spec("uc"), ranks=2),
    }
    assert len(different) == 6


def test_facts_of_the_run_go_with_its_perturbations_alone(subject: Subject) -> None:
    bare = arm(run_seed=None, effective_batch=None, optimizer_steps=0, dataset="")
    uc, clean = (subject.with_facts(replace(bare, arm=name)) for name in ("uc", "clean"))
    assert (uc.run_seed, uc.batches, uc.optimizer_steps) == (5, (3, 4), 7)
    assert (clean.run_seed, clean.batches, clean.optimizer_steps) == (None, (), 0)
    assert uc.dataset == "digits"
