"""Perturbations of a run: loaded, or refused; rounded to 8 bits, added and resized."""

import math
from pathlib import Path

import numpy as np
import pytest

from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.protection.perturbations import (
    protected_images,
    resize_perturbation,
    to_eight_bit,
)
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.runs import load_learned, make_run


@pytest.mark.parametrize("eps", [16 / 255, 0.05, 8 / 255, 0.5 / 255, 1.0])
def test_eight_bit_never_exceeds_eps(eps: float) -> None:
    delta = np.linspace(-eps, eps, 10_001, dtype=np.float32).reshape(1, 1, 73, 137)
    units = to_eight_bit(delta, eps)
    assert np.abs(units / 255).max() <= eps * (1 + 1e-12)
    assert np.abs(units).max() == math.floor(255 * eps + 1e-6)
    assert np.abs(units - 255 * delta.astype(np.float64)).max() < 1
    assert (units * delta >= 0).all()


def test_protected_images_add_each_clusters_rounded_perturbation_and_clip() -> None:
    random = np.random.default_rng(0)
    eps = 16 / 255
    images = random.integers(256, size=(2_100, 3, 8, 8), dtype=np.uint8)
    delta = random.uniform(-eps, eps, (4, 3, 8, 8)).astype(np.float32)
    assignment = random.integers(4, size=len(images))
    expected = np.stack(
        [
            np.clip(np.rint(image + 255 * delta[cluster].astype(np.float64)), 0, 255)
            for image, cluster in zip(images, assignment, strict=True)
        ]
    )
    protected = protected_images(images, delta, assignment, eps)
    assert protected.dtype == np.uint8
    np.testing.assert_array_equal(protected, expected)


@pytest.mark.parametrize("size", [(8, 8), (5, 13), (16, 9), (31, 40)])
def test_resized_perturbations_stay_within_the_bound(size: tuple[int, int]) -> None:
    delta = np.random.default_rng(0).choice([-0.1, 0.1], (3, 8, 8)).astype(np.float32)
    resized = resize_perturbation(delta, *size)
    assert resized.shape == (3, *size)
    assert np.abs(resized).max() <= np.float32(0.1) * (1 + 1e-6)
    constant = np.full((1, 8, 8), 0.05, np.float32)
    np.testing.assert_allclose(resize_perturbation(constant, *size), 0.05, rtol=1e-6)


def test_data_set_that_has_changed_is_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    make_npz(train_labels=np.zeros((12, 1), np.uint8))
    with pytest.raises(UserError, match="has changed since this run; train again"):
        load_learned(run)


def test_perturbations_of_another_run_are_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    folder = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    path = load_run(folder)[1].perturbations
    tensors, _ = read_tensors(path)
    write_tensors(path, tensors, {"answer": "another"})
    with pytest.raises(UserError, match="belongs to another run or data set; train again"):
        load_learned(folder)


def test_perturbations_beyond_eps_are_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9", scale=1.1)
    with pytest.raises(UserError, match=r"contains values beyond eps = 0\.06.*; train again"):
        load_learned(run)
