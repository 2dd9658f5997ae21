"""Countermeasures: bounds, strength, randomness."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn

from bigbatch_ue.config.names import Countermeasure
from bigbatch_ue.evaluation.countermeasures import applies, batch_transform, pgd, preprocess_images

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning"),
]
CM = Countermeasure
BEFORE = (
    CM.JPEG75,
    CM.JPEG10,
    CM.GREY,
    CM.BLUR,
    CM.BIT_DEPTH,
    CM.LOW_PASS,
    CM.CLUSTER_AVERAGE,
    CM.PROJECTION,
)
DURING = (CM.CUTOUT, CM.MIXUP, CM.CUTMIX, CM.RANDAUGMENT)
EPS = 16 / 255
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photos() -> Images:
    """300 pieces of two photographs, uint8 [300, 3, 16, 16]: more than one part."""
    flower_and_temple = np.stack(load_sample_images().images)[:, :416, :640]
    tiles = flower_and_temple.reshape(2, 26, 16, 40, 16, 3).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(tiles.reshape(-1, 3, 16, 16)[::6][:300])


def of_channels(photos: Images, channels: int) -> Images:
    return np.ascontiguousarray(photos[:, :channels])


def grouped(
    count: int, channels: int = 1, size: int = 8
) -> tuple[Images, Images, NDArray[np.int64]]:
    """Noise in the middle of the range, the same with four groups' perturbations, the groups."""
    random = np.random.default_rng(0)
    images = random.integers(40, 216, (count, channels, size, size)).astype(np.uint8)
    groups = 3 * random.integers(4, size=count)
    delta = random.choice([-16, 16], (10, channels, size, size))
    return images, (images + delta[groups]).astype(np.uint8), groups


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


def batch(photos: Images, channels: int = 3) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(of_channels(photos[:24], channels)), torch.arange(24) % 4


def test_only_grey_on_grey_changes_nothing() -> None:
    idle = {(name, c) for name in CM for c in (1, 3) if not applies(name, c)}
    assert idle == {(CM.GREY, 1)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BEFORE)
def test_cleaning_gives_other_images_of_the_same_form(
    name: Countermeasure, channels: int, photos: Images
) -> None:
    images = of_channels(photos, channels)
    kept, groups = images.copy(), np.arange(300) % 3
    cleaned = preprocess_images(name, images, image_groups=groups, eps=EPS)
    assert cleaned.shape == images.shape
    assert cleaned.dtype == np.uint8
    assert np.array_equal(images, kept)
    assert np.any(cleaned != images) == applies(name, channels)
    assert np.abs(cleaned.astype(int) - images).mean() < 40
    assert np.array_equal(preprocess_images(name, images, image_groups=groups, eps=EPS), cleaned)


@pytest.mark.parametrize("name", BEFORE)
def test_parts_do_not_show(name: Countermeasure, photos: Images) -> None:
    """What an image becomes depends on no neighbour: a copy in another part becomes the same."""
    images = np.concatenate([photos[:10], photos[10:], photos[:10]])
    groups = np.concatenate([np.arange(300) % 3, np.arange(10) % 3])
    cleaned = preprocess_images(name, images, image_groups=groups, eps=EPS)
    assert np.array_equal(cleaned[:10], cleaned[-10:])


@pytest.mark.parametrize("name", [n for n in CM if n not in BEFORE])
def test_what_acts_in_training_leaves_the_images(name: Countermeasure, photos: Images) -> None:
    assert preprocess_images(name, photos, image_groups=np.zeros(300, np.int64), eps=EPS) is photos


@pytest.mark.parametrize("name", [n for n in CM if n not in DURING])
def test_what_acts_before_training_leaves_the_batches(name: Countermeasure) -> None:
    assert batch_transform(name, 4) is None


def test_jpeg10_changes_more_than_jpeg75(photos: Images) -> None:
    none = np.zeros(300, np.int64)
    change = {
        name: np.abs(
            preprocess_images(name, photos, image_groups=none, eps=EPS).astype(int) - photos
        ).mean()
        for name in (CM.JPEG75, CM.JPEG10)
    }
    assert change[CM.JPEG10] > 2 * change[CM.JPEG75]


def test_grey_has_equal_channels(photos: Images) -> None:
    grey = preprocess_images(CM.GREY, photos, image_groups=np.zeros(300, np.int64), eps=EPS)
    assert np.array_equal(grey[:, 0], grey[:, 1])
    assert np.array_equal(grey[:, 0], grey[:, 2])
    assert np.abs(grey[:, 0] - photos.mean(1)).mean() < 20


def test_three_bits_are_left(photos: Images) -> None:
    squeezed = preprocess_images(
        CM.BIT_DEPTH, photos, image_groups=np.zeros(300, np.int64), eps=EPS
    )
    assert len(np.unique(squeezed)) == 8


@pytest.mark.parametrize("name", [CM.BLUR, CM.LOW_PASS])
def test_filters_take_off_what_is_fine_and_keep_what_is_flat(name: Countermeasure) -> None:
    none = np.zeros(2, np.int64)
    board = 100 + 50 * (np.indices((16, 16)).sum(0) % 2)
    images = np.stack([board, np.full((16, 16), 125)])[:, None].astype(np.uint8)
    fine, flat = preprocess_images(name, images, image_groups=none, eps=EPS).astype(int)
    inside = fine[0, 4:-4, 4:-4]
    assert np.ptp(inside) < 20
    assert np.abs(inside - 125).max() < 10
    assert np.all(flat == 125)


@pytest.mark.parametrize("channels", [1, 3])
def test_averages_take_off_a_perturbation_of_groups(channels: int) -> None:
    images, perturbed, groups = grouped(2000, channels, 16)
    cleaned = preprocess_images(CM.CLUSTER_AVERAGE, perturbed, image_groups=groups, eps=2 * EPS)
    means = [
        np.stack([x[groups == g].mean(0) for g in np.unique(groups)])
        for x in (images, perturbed, cleaned)
    ]
    before, after = (np.ptp(mean, axis=0).mean() for mean in means[1:])
    assert before > 20
    assert after < 0.2 * before
    change = (cleaned.astype(int) - perturbed).astype(float)
    ideal = images - perturbed.astype(float)
    ideal -= ideal.mean(0)
    assert np.abs(change - ideal).mean() < 0.25 * np.abs(ideal).mean()


def test_averages_change_nothing_by_more_than_eps(photos: Images) -> None:
    groups = (photos.mean((1, 2, 3)) > 128).astype(np.int64)
    cleaned = preprocess_images(CM.CLUSTER_AVERAGE, photos, image_groups=groups, eps=4 / 255)
    assert np.abs(cleaned.astype(int) - photos).max() == 4


def test_averages_leave_what_is_coarse() -> None:
    """Groups that differ in brightness alone are left alone."""
    random = np.random.default_rng(0)
    groups = np.arange(400) % 2
    images = random.integers(80, 90, (400, 1, 16, 16)) + 40 * groups[:, None, None, None]
    cleaned = preprocess_images(
        CM.CLUSTER_AVERAGE, images.astype(np.uint8), image_groups=groups, eps=EPS
    )
    assert np.abs(cleaned.astype(int) - images).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_projection_makes_groups_inseparable(channels: int) -> None:
    _, perturbed, groups = grouped(1200, channels)

    def separable(images: Images) -> float:
        flat = images.reshape(len(images), -1) / 255
        return float(
            RidgeClassifier().fit(flat[:800], groups[:800]).score(flat[800:], groups[800:])
        )

    cleaned = preprocess_images(CM.PROJECTION, perturbed, image_groups=groups, eps=EPS)
    assert separable(perturbed) > 0.8
    assert separable(cleaned) < 0.4
    assert np.abs(cleaned.mean(0) - perturbed.mean(0)).mean() < 0.5


def test_projection_of_two_groups_takes_one_direction() -> None:
    _, perturbed, groups = grouped(600)
    cleaned = preprocess_images(CM.PROJECTION, perturbed, image_groups=groups % 2, eps=EPS)
    change = (cleaned.astype(float) - perturbed).reshape(600, -1)
    energy = np.linalg.svd(change, compute_uv=False) ** 2
    assert energy[0] > 0.9 * energy.sum()


@pytest.mark.parametrize("groups", [np.zeros(300, np.int64), np.arange(300)])
def test_projection_needs_groups_of_several_images(
    groups: NDArray[np.int64], photos: Images
) -> None:
    assert preprocess_images(CM.PROJECTION, photos, image_groups=groups, eps=EPS) is photos


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DURING)
def test_batches_keep_their_form(name: Countermeasure, channels: int, photos: Images) -> None:
    transform = batch_transform(name, 4)
    assert transform is not None
    images, labels = batch(photos, channels)
    torch.manual_seed(0)
    changed, targets = transform(images, labels)
    assert changed.shape == images.shape
    mixes = name in (CM.MIXUP, CM.CUTMIX)
    assert changed.dtype == (torch.float32 if mixes else torch.uint8)
    scaled = changed if mixes else changed / 255
    assert 0 <= scaled.min() < scaled.max() <= 1
    assert not torch.equal(scaled, images / 255)
    if mixes:
        assert targets.shape == (24, 4)
        torch.testing.assert_close(targets.sum(1), torch.ones(24))
        assert (targets[torch.arange(24), labels] < 1).any()
    else:
        assert torch.equal(targets, labels)


@pytest.mark.parametrize("name", DURING)
def test_batches_are_random_by_the_seed(name: Countermeasure, photos: Images) -> None:
    transform = batch_transform(name, 4)
    assert transform is not None
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(transform(*batch(photos))[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", [CM.MIXUP, CM.CUTMIX])
def test_one_class_stays_one_class(name: Countermeasure, photos: Images) -> None:
    transform = batch_transform(name, 1)
    assert transform is not None
    images, labels = batch(photos)
    torch.testing.assert_close(transform(images, 0 * labels)[1], torch.ones(24, 1))


def test_cutout_is_a_square_in_every_other_image() -> None:
    transform = batch_transform(CM.CUTOUT, 4)
    assert transform is not None
    torch.manual_seed(0)
    images, _ = transform(torch.full((200, 3, 16, 16), 9, dtype=torch.uint8), torch.zeros(200))
    holes = (images == 0).all(1)
    sizes = holes.flatten(1).sum(1)
    assert set(sizes.tolist()) == {0, 64}
    assert 70 < (sizes > 0).sum() < 130
    cut = holes[sizes > 0]
    assert (cut.any(1).sum(1) == 8).all()
    assert (cut.any(2).sum(1) == 8).all()
    assert len(np.unique(cut.numpy(), axis=0)) > 20


def test_randaugment_draws_for_each_image(photos: Images) -> None:
    transform = batch_transform(CM.RANDAUGMENT, 4)
    assert transform is not None
    torch.manual_seed(0)
    images = torch.from_numpy(photos[:1]).expand(16, -1, -1, -1)
    views = transform(images, torch.zeros(16))[0]
    assert len(np.unique(views.numpy(), axis=0)) > 8


@pytest.mark.parametrize("kind", ["labels", "fractions"])
def test_pgd_raises_the_loss_within_its_bounds(kind: str, photos: Images) -> None:
    images, targets = batch(photos)
    images = images / 255
    model = network().eval()
    model(images)
    if kind == "fractions":
        targets = F.one_hot(targets, 4).float()
    torch.manual_seed(1)
    noise = (images + 0.03 * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    found = pgd(model, images, targets, eps=0.03, steps=5)
    assert not found.requires_grad
    assert (found - images).abs().max() <= 0.03 + 1e-6
    assert (found - images).abs().mean() > 0.02
    assert found.min() >= 0
    assert found.max() <= 1
    with torch.no_grad():
        clean, random, worst = (
            float(F.cross_entropy(model(x), targets)) for x in (images, noise, found)
        )
    assert worst - clean > 5 * abs(random - clean)


@pytest.mark.parametrize("training", [True, False])
def test_pgd_leaves_the_model_alone(training: bool, photos: Images) -> None:
    images, targets = batch(photos)
    images = images / 255
    model = network()
    F.cross_entropy(model(images), targets).backward()  # type: ignore[no-untyped-call]
    model.train(training)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    torch.manual_seed(2)
    first = pgd(model, images, targets, eps=0.03, steps=2)
    torch.manual_seed(2)
    assert torch.equal(pgd(model, images, targets, eps=0.03, steps=2), first)
    assert model.training is training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(after) == len(gradients)
    assert all(torch.equal(a, b) for a, b in zip(after, gradients, strict=True))
