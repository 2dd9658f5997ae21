"""SimCLR against its paper, and what it learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from bigbatch_ue.networks.inference import to_float
from bigbatch_ue.networks.simclr import nt_xent, simclr_views, train_simclr
from tests.helpers.networks import Split, same_state, settings, small_network


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
    losses = train_simclr(model, digits[0][0][:400], settings(epochs=4))
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert neighbours(model, digits) > random + 0.03


def test_simclr_is_deterministic(digits: tuple[Split, Split]) -> None:
    states = []
    for _ in range(2):
        model = small_network(outputs=32)
        train_simclr(model, digits[0][0][:100], settings(batch=50, flip=True, seed=3))
        states.append(model.state_dict())
    assert same_state(*states)


def neighbours(model: nn.Module, digits: tuple[Split, Split]) -> float:
    """Accuracy of the five nearest of 100 labelled neighbours in feature space."""
    model.eval()
    with torch.no_grad():
        train, test = (model(to_float(torch.from_numpy(images))).numpy() for images, _ in digits)
    nearest = KNeighborsClassifier(5).fit(train[:100], digits[0][1][:100])
    return float(nearest.score(test, digits[1][1]))
