"""Perturbed images resemble their originals, however strong the change; other images do not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.decoded import DataSet, ImageSet, prepare_dataset
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.evaluation.external_images import load_external_images
from bigbatch_ue.evaluation.resemblance import resembles_original
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.command_line import cli_of
from tests.helpers.runs import QUICK

Change = Callable[[ImageSet], Pixels]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    places = [f"data.root={tmp_path / 'cache'}", f"output={tmp_path / 'theirs'}"]
    return [*QUICK, *places, "data.size=16", "data.limit=400"]


@pytest.fixture
def digits(settings: list[str]) -> DataSet:
    return prepare_dataset(load_config(overrides=settings).data)


def add(images: Pixels, change: NDArray[np.int64]) -> Pixels:
    changed: Pixels = np.clip(images + change, 0, 255).astype(np.uint8)
    return changed


def noise(clean: ImageSet) -> Pixels:
    return add(clean.images, np.random.default_rng(0).choice([-64, 64], clean.images.shape))


def class_noise(clean: ImageSet) -> Pixels:
    patterns = np.random.default_rng(0).choice([-64, 64], (10, *clean.images.shape[1:]))
    return add(clean.images, patterns[clean.labels])


def jpeg(clean: ImageSet) -> Pixels:
    changed = np.empty_like(clean.images)
    for image, into in zip(clean.images, changed, strict=True):
        file = io.BytesIO()
        Image.fromarray(image[0]).save(file, "JPEG", quality=10)
        into[0] = np.asarray(Image.open(file))
    return changed


def brighter(clean: ImageSet) -> Pixels:
    return add(clean.images, np.array(80))


def weaker(clean: ImageSet) -> Pixels:
    return clean.images // 4


def in_part(clean: ImageSet) -> Pixels:
    return np.concatenate([noise(clean)[:50], clean.images[50:]])


def reordered(clean: ImageSet) -> Pixels:
    """Other images of the same class, with a small perturbation."""
    order = np.arange(len(clean))
    for label in range(10):
        members = np.flatnonzero(clean.labels == label)
        order[members] = np.random.default_rng(label).permutation(members)
    return add(clean.images[order], np.random.default_rng(0).choice([-8, 8], clean.images.shape))


def shifted(clean: ImageSet) -> Pixels:
    return np.roll(clean.images, 1, axis=0)


def unrelated(clean: ImageSet) -> Pixels:
    return np.random.default_rng(0).integers(256, size=clean.images.shape, dtype=np.uint8)


@pytest.mark.parametrize("change", [noise, class_noise, jpeg, brighter, weaker, in_part])
def test_strong_changes_leave_the_resemblance(digits: DataSet, change: Change) -> None:
    assert resembles_original(change(digits.train), digits.train).mean() > 0.95


@pytest.mark.parametrize("change", [reordered, shifted, unrelated])
def test_other_images_are_refused_in_one_line_with_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    digits: DataSet,
    change: Change,
) -> None:
    other = change(digits.train)
    assert resembles_original(other, digits.train).mean() < 0.25
    np.savez(tmp_path / "theirs.npz", train_images=other[:, 0])
    place = f"npz:{tmp_path / 'theirs.npz'}"
    capsys.readouterr()
    code, _, error = cli_of(main, capsys)("evaluate", "--protected", place, *settings)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert "of 200 compared images resemble another clean image" in error


def test_another_share_of_the_set_is_refused(
    tmp_path: Path, settings: list[str], digits: DataSet
) -> None:
    whole = prepare_dataset(load_config(overrides=[*settings, "data.limit=null"]).data)
    np.savez(tmp_path / "theirs.npz", train_images=whole.train.images[:400, 0])
    with pytest.raises(UserError, match="another share of the set; put the perturbed version"):
        load_external_images(str(tmp_path / "theirs.npz"), digits, TakeConfig())


def test_equal_and_constant_images_resemble_each_other_and_lone_ones_are_left_out(
    digits: DataSet,
) -> None:
    train = digits.train.first(30)
    flat = ImageSet(np.full_like(train.images, 9), train.labels, train.names, train.positions)
    assert resembles_original(noise(flat), flat).all()
    lone = ImageSet(train.images, np.arange(30), train.names, train.positions)
    assert resembles_original(noise(lone), lone).shape == (0,)
