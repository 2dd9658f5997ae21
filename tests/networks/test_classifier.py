"""Training from scratch: reproducible, every image used, accuracy over the whole test set."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from bigbatch_ue.config.sections import AugmentConfig, TrainingRecipe
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.inference import accuracy, predict, to_float
from bigbatch_ue.networks.recipe import cut_into_batches, one_cycle
from bigbatch_ue.networks.simclr import nt_xent, simclr_views, train_simclr
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

CPU = torch.device("cpu")
Split = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> tuple[Split, Split]:
    """Real digits, 8 x 8 pixels: 600 to train on, 300 to test on."""
    found = load_digits()
    images = (found.images * 255 / 16).round().astype(np.uint8)[:, None]
    labels = found.target.astype(np.int64)
    return (images[:600], labels[:600]), (images[600:900], labels[600:900])


def network(outputs: int = 10, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128, outputs),
        )


def pooled_network() -> nn.Module:
    layers: list[nn.Module] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            stride = 1 if inputs == 1 else 2
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def trained(split: Split, *, seed: int = 0, pad: int = 1, **recipe: float) -> dict[str, Tensor]:
    model = network()
    train_classifier(
        model,
        *split,
        recipe=TrainingRecipe.model_validate({"epochs": 1, "batch": 64, **recipe}),
        augment=AugmentConfig(pad=pad),
        seed=seed,
        device=CPU,
    )
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_digits_are_learned_and_reported_each_epoch(digits: tuple[Split, Split]) -> None:
    reports: list[tuple[int, float | None]] = []
    model = network()
    accuracies, losses = train_classifier(
        model,
        *digits[0],
        recipe=TrainingRecipe(epochs=6, batch=32, lr=0.05),
        augment=AugmentConfig(),
        seed=0,
        device=CPU,
        test=digits[1],
        on_epoch=lambda epoch, reached: reports.append((epoch, reached)),
    )
    assert accuracies[-1] > 0.85
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert reports == list(enumerate(accuracies))
    assert not model.training
    assert accuracies[-1] == pytest.approx(accuracy(model, *digits[1], CPU))


def test_seed_decides_training_and_nothing_else_does(digits: tuple[Split, Split]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(digits[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, trained(digits[0]))
    assert not same(first, trained(digits[0], seed=1))


def test_views_are_drawn_by_augment(digits: tuple[Split, Split]) -> None:
    assert not same(trained(digits[0], pad=0), trained(digits[0], pad=2))


def test_testing_does_not_change_training(digits: tuple[Split, Split]) -> None:
    tested = network()
    train_classifier(
        tested,
        *digits[0],
        recipe=TrainingRecipe(epochs=2, batch=64),
        augment=AugmentConfig(pad=1),
        seed=0,
        device=CPU,
        test=digits[1],
    )
    assert same(tested.state_dict(), trained(digits[0], epochs=2))


def test_memory_map_is_as_good_as_memory(digits: tuple[Split, Split], tmp_path: Path) -> None:
    images, labels = digits[0]
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert same(trained((mapped, labels)), trained((images, labels)))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (6, 4), (129, 64), (7, 100)])
def test_batches_hold_each_image_once_and_never_one_alone(count: int, size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    cut = cut_into_batches(order, size)
    assert np.array_equal(np.concatenate(cut), order)
    assert all(2 <= len(batch) <= size + 1 for batch in cut) or count == 1


def test_single_image_left_over_does_not_break_batch_norm(digits: tuple[Split, Split]) -> None:
    images, labels = digits[0]
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    train_classifier(
        model,
        images[:17],
        labels[:17],
        recipe=TrainingRecipe(epochs=1, batch=16),
        augment=AugmentConfig(),
        seed=0,
        device=CPU,
    )


@pytest.mark.parametrize(("count", "size"), [(1, 16), (16, 1)])
def test_batch_of_one_is_an_error(digits: tuple[Split, Split], count: int, size: int) -> None:
    images, labels = digits[0]
    with pytest.raises(UserError, match="at least 2"):
        trained((images[:count], labels[:count]), batch=size)


def test_divergence_is_an_error(digits: tuple[Split, Split]) -> None:
    with pytest.raises(UserError, match=r"diverged in epoch 1: lower fit\.lr"):
        trained(digits[0], lr=1e30, batch=32)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_one_cycle_rises_to_its_peak_and_falls(steps: int) -> None:
    rates = np.array([one_cycle(step, steps) for step in range(steps)])
    assert (rates > 0).all()
    assert (rates <= 1).all()
    assert rates.max() > 0.6
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()


@pytest.mark.parametrize("batch", [3, 7, 512])
def test_prediction_counts_each_image_once(digits: tuple[Split, Split], batch: int) -> None:
    images, labels = digits[1][0][:20], digits[1][1][:20]
    model = network().eval()
    expected = model(to_float(torch.from_numpy(images))).softmax(1)
    found = predict(model.train(), images, CPU, batch=batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    share = (expected.argmax(1).numpy() == labels).mean()
    assert accuracy(model, images, labels, CPU) == pytest.approx(share)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_what_is_not_frozen_is_learned(digits: tuple[Split, Split], optimizer: str) -> None:
    model = network()
    first = model.get_submodule("0").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = TrainingRecipe.model_validate(
        {"optimizer": optimizer, "epochs": 2, "batch": 64, "lr": 0.01}
    )
    curve = train_classifier(
        model,
        *digits[0],
        recipe=recipe,
        augment=AugmentConfig(),
        seed=0,
        device=CPU,
        test=digits[1],
    )
    assert curve.accuracies[-1] > 0.3
    assert torch.equal(first.weight, before["0.weight"])  # type: ignore[arg-type]
    assert not torch.equal(model.state_dict()["3.weight"], before["3.weight"])


def test_adamw_is_another_optimizer(digits: tuple[Split, Split]) -> None:
    with_sgd = trained(digits[0], lr=1e-3)
    model = network()
    recipe = TrainingRecipe(optimizer="adamw", epochs=1, batch=64, lr=1e-3)
    train_classifier(
        model, *digits[0], recipe=recipe, augment=AugmentConfig(pad=1), seed=0, device=CPU
    )
    assert not same(with_sgd, model.state_dict())


def test_transform_and_attack_decide_what_is_learned(digits: tuple[Split, Split]) -> None:
    """The network sees what the attack made of what the transform gave, with its targets."""
    seen: list[tuple[Tensor, Tensor]] = []

    def inverted(batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert batch.dtype == torch.uint8
        return 255 - batch, F.one_hot(labels, 10).float().roll(1, dims=1)

    def halved(model: nn.Module, batch: Tensor, targets: Tensor) -> Tensor:
        seen.append((batch, targets))
        return batch / 2

    model = network()
    given: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    train_classifier(
        model,
        digits[0][0][:64],
        digits[0][1][:64],
        recipe=TrainingRecipe(epochs=1, batch=32, lr=0.05),
        augment=AugmentConfig(),
        seed=0,
        device=CPU,
        transform=inverted,
        attack=halved,
    )
    order = draw(0, Purpose.FIT, 0).permutation(64)[:32]
    batch, targets = seen[0]
    torch.testing.assert_close(batch, 1 - to_float(torch.from_numpy(digits[0][0][order])))
    assert targets.argmax(1).tolist() == ((digits[0][1][order] + 1) % 10).tolist()
    torch.testing.assert_close(given[0], batch / 2)


def test_random_transforms_are_seeded(digits: tuple[Split, Split]) -> None:
    def states(seed: int) -> dict[str, Tensor]:
        torch.rand(7)
        model = network()
        train_classifier(
            model,
            *digits[0],
            recipe=TrainingRecipe(epochs=1, batch=64),
            augment=AugmentConfig(),
            seed=seed,
            device=CPU,
            transform=lambda batch, labels: (
                batch * (torch.rand(len(batch), 1, 1, 1) < 0.5),
                labels,
            ),
        )
        return model.state_dict()

    assert same(states(0), states(0))
    assert not same(states(0), states(1))


def test_nt_xent_is_the_papers_sum() -> None:
    z, pairs, temperature = torch.randn(6, 5, generator=torch.manual_seed(0)), 3, 0.3
    similar = [[float(F.cosine_similarity(a, b, dim=0)) / temperature for b in z] for a in z]
    losses = []
    for i in range(6):
        j = (i + pairs) % 6
        others = sum(math.exp(similar[i][k]) for k in range(6) if k != i)
        losses.append(-math.log(math.exp(similar[i][j]) / others))
    assert float(nt_xent(z, temperature)) == pytest.approx(sum(losses) / 6, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_simclr_views_are_pictures_and_differ(channels: int) -> None:
    image = torch.randint(256, (channels, 12, 12), dtype=torch.uint8)
    transform = simclr_views(channels, 12, flip=True)
    one, other = transform(image), transform(image)
    assert one.shape == (channels, 12, 12)
    assert one.dtype == torch.float32
    assert 0 <= one.min() <= one.max() <= 1
    assert not torch.equal(one, other)


def test_simclr_features_beat_random_features(digits: tuple[Split, Split]) -> None:
    model = pooled_network()
    random = neighbours(model, digits)
    losses = train_simclr(
        model,
        digits[0][0][:400],
        recipe=TrainingRecipe(epochs=4, batch=64),
        augment=AugmentConfig(),
        seed=0,
        device=CPU,
    )
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert neighbours(model, digits) > random + 0.03


def test_simclr_is_deterministic(digits: tuple[Split, Split]) -> None:
    states = []
    for _ in range(2):
        model = network(outputs=32)
        train_simclr(
            model,
            digits[0][0][:100],
            recipe=TrainingRecipe(epochs=1, batch=50),
            augment=AugmentConfig(flip=True),
            seed=3,
            device=CPU,
        )
        states.append(model.state_dict())
    assert same(*states)


def neighbours(model: nn.Module, digits: tuple[Split, Split]) -> float:
    """Accuracy of the five nearest of 100 labelled neighbours in feature space."""
    model.eval()
    with torch.no_grad():
        train, test = (model(to_float(torch.from_numpy(images))).numpy() for images, _ in digits)
    nearest = KNeighborsClassifier(5).fit(train[:100], digits[0][1][:100])
    return float(nearest.score(test, digits[1][1]))
