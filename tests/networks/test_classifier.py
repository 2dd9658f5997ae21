"""Training a classifier: reproducible, on every image, tested on the whole test set."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbatch_ue.networks.classifier import Transform, train_classifier
from bigbatch_ue.networks.inference import accuracy, to_float
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw
from tests.helpers.networks import CPU, Split, same_state, settings, small_network


def trained(
    split: Split, own: TrainingSettings | None = None, *, transform: Transform | None = None
) -> dict[str, Tensor]:
    """The state of a small network after it was trained on `split`."""
    model = small_network()
    train_classifier(model, *split, own or settings(pad=1), transform=transform)
    return model.state_dict()


def test_digits_are_learned_and_reported_each_epoch(digits: tuple[Split, Split]) -> None:
    reports: list[tuple[int, float | None]] = []
    model = small_network()
    accuracies, losses = train_classifier(
        model,
        *digits[0],
        settings(epochs=6, batch=32, lr=0.05),
        test=digits[1],
        on_epoch=lambda epoch, reached: reports.append((epoch, reached)),
    )
    assert accuracies[-1] > 0.85
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert reports == list(enumerate(accuracies))
    assert not model.training
    assert accuracies[-1] == pytest.approx(accuracy(model, *digits[1], CPU))


def test_seed_is_the_only_source_of_randomness(digits: tuple[Split, Split]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(digits[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_state(first, trained(digits[0]))
    assert not same_state(first, trained(digits[0], settings(pad=1, seed=1)))


def test_views_are_drawn_by_augment(digits: tuple[Split, Split]) -> None:
    states = [trained(digits[0], settings(pad=pad)) for pad in (0, 2)]
    assert not same_state(*states)


def test_testing_does_not_change_training(digits: tuple[Split, Split]) -> None:
    tested = small_network()
    train_classifier(tested, *digits[0], settings(pad=1, epochs=2), test=digits[1])
    assert same_state(tested.state_dict(), trained(digits[0], settings(pad=1, epochs=2)))


def test_memory_map_trains_the_same_network_as_memory(
    digits: tuple[Split, Split], tmp_path: Path
) -> None:
    images, labels = digits[0]
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert same_state(trained((mapped, labels)), trained((images, labels)))


def test_single_image_left_over_does_not_break_batch_norm(digits: tuple[Split, Split]) -> None:
    images, labels = digits[0]
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    train_classifier(model, images[:17], labels[:17], settings(batch=16))


@pytest.mark.parametrize(("count", "size"), [(1, 16), (16, 1)])
def test_batch_of_one_is_an_error(digits: tuple[Split, Split], count: int, size: int) -> None:
    images, labels = digits[0]
    message = rf"fit\.batch={size} on {count} images?: training needs at least 2"
    with pytest.raises(UserError, match=message):
        trained((images[:count], labels[:count]), settings(batch=size))


def test_divergence_is_an_error(digits: tuple[Split, Split]) -> None:
    with pytest.raises(UserError, match=r"fit\.lr=1e\+30: training diverged in epoch 1; lower it"):
        trained(digits[0], settings(lr=1e30, batch=32))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_stay_and_the_others_are_trained(
    digits: tuple[Split, Split], optimizer: str
) -> None:
    model = small_network()
    first = model.get_submodule("0").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = settings(optimizer=optimizer, epochs=2, lr=0.01)
    curve = train_classifier(model, *digits[0], recipe, test=digits[1])
    assert curve.accuracies[-1] > 0.3
    assert torch.equal(first.weight, before["0.weight"])  # type: ignore[arg-type]
    assert not torch.equal(model.state_dict()["3.weight"], before["3.weight"])


def test_adamw_is_another_optimizer_than_sgd(digits: tuple[Split, Split]) -> None:
    states = [
        trained(digits[0], settings(pad=1, lr=1e-3, optimizer=name)) for name in ("sgd", "adamw")
    ]
    assert not same_state(*states)


def test_transform_and_attack_decide_what_is_learned(digits: tuple[Split, Split]) -> None:
    """The network sees what the attack made of what the transform gave, with its targets."""
    seen: list[tuple[Tensor, Tensor]] = []

    def inverted(batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert batch.dtype == torch.uint8
        return 255 - batch, F.one_hot(labels, 10).float().roll(1, dims=1)

    def halved(model: nn.Module, batch: Tensor, targets: Tensor) -> Tensor:
        seen.append((batch, targets))
        return batch / 2

    model = small_network()
    given: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    images, labels = (part[:64] for part in digits[0])
    recipe = settings(batch=32, lr=0.05)
    train_classifier(model, images, labels, recipe, transform=inverted, attack=halved)
    order = draw(0, Purpose.FIT, 0).permutation(64)[:32]
    batch, targets = seen[0]
    torch.testing.assert_close(batch, 1 - to_float(torch.from_numpy(images[order])))
    assert targets.argmax(1).tolist() == ((labels[order] + 1) % 10).tolist()
    torch.testing.assert_close(given[0], batch / 2)


def test_random_transforms_are_seeded(digits: tuple[Split, Split]) -> None:
    def dropped(batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return batch * (torch.rand(len(batch), 1, 1, 1) < 0.5), labels

    def state(seed: int) -> dict[str, Tensor]:
        torch.rand(7)
        return trained(digits[0], settings(seed=seed), transform=dropped)

    assert same_state(state(0), state(0))
    assert not same_state(state(0), state(1))
