"""The objective, against the formulas written out."""

import numpy as np
import pytest
import torch

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.config.sections import AugmentConfig, ObjectiveConfig
from bigbatch_ue.data.views import apply_views, draw_views
from bigbatch_ue.runtime.randomness import Purpose, draw
from bigbatch_ue.training.objective import ClusterwiseLoss, distance

FEATURES = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [2.0, 2.0, 2.0]])
TARGETS = torch.tensor([[0.0, 1.0, 0.0], [2.0, -1.0, 1.0]])
GENERATOR = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_kl_is_the_divergence_of_the_feature_from_the_centre(temperature: float) -> None:
    distances = distance(FEATURES, GENERATOR, TARGETS, ObjectiveConfig(temperature=temperature))
    p = torch.softmax(TARGETS[GENERATOR] / temperature, 1)
    q = torch.softmax(FEATURES / temperature, 1)
    assert torch.allclose(distances, (p * (p / q).log()).sum(1), atol=1e-6)


def test_cosine_and_cross_entropy_written_out() -> None:
    norm = FEATURES / FEATURES.norm(dim=1, keepdim=True)
    centres = TARGETS / TARGETS.norm(dim=1, keepdim=True)
    similarity = norm @ centres.T
    chosen = similarity[torch.arange(3), GENERATOR]
    cosine = distance(FEATURES, GENERATOR, TARGETS, ObjectiveConfig(name="cosine"))
    assert torch.allclose(cosine, 1 - chosen, atol=1e-6)
    entropy = distance(
        FEATURES, GENERATOR, TARGETS, ObjectiveConfig(name="cross_entropy", temperature=0.5)
    )
    expected = torch.logsumexp(similarity / 0.5, 1) - chosen / 0.5
    assert torch.allclose(entropy, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["kl", "cosine", "cross_entropy"])
def test_distance_falls_towards_the_target(name: str) -> None:
    objective = ObjectiveConfig.model_validate({"name": name})
    near = distance(TARGETS[GENERATOR] + 0.01, GENERATOR, TARGETS, objective)
    assert (near < distance(FEATURES, GENERATOR, TARGETS, objective)).all()
    assert (near >= 0).all()


@pytest.mark.parametrize("perturb", ["before", "after"])
def test_perturbation_moves_with_the_view_only_before_it(perturb: str) -> None:
    augment = AugmentConfig.model_validate({"pad": 1, "flip": True, "perturb": perturb})
    views = draw_views(draw(2, Purpose.VIEWS), 3, augment)
    images = np.full((3, 1, 4, 4), 100, dtype=np.uint8)
    delta = torch.linspace(-0.1, 0.1, 2 * 16).view(2, 1, 4, 4)
    micro = MicroBatch(
        torch.from_numpy(images), GENERATOR.numpy(), views, np.ones(3, dtype=np.float32)
    )
    seen: list[torch.Tensor] = []

    def surrogate(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flatten(1)[:, :3]

    loss = ClusterwiseLoss(
        surrogate,  # type: ignore[arg-type]
        TARGETS,
        ObjectiveConfig(),
        augment,
    )
    loss(delta, micro)
    clean = apply_views(torch.from_numpy(images), views, 1).float() / 255
    moved = apply_views(delta[GENERATOR], views, 1) if perturb == "before" else delta[GENERATOR]
    assert torch.allclose(seen[0], (clean + moved).clamp(0, 1))


def test_gradient_returns_to_the_perturbation_of_each_image() -> None:
    views = draw_views(draw(2, Purpose.VIEWS), 3, AugmentConfig())
    images = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    micro = MicroBatch(images, GENERATOR.numpy(), views, np.array([1, 0.5, 0.5], np.float32))
    delta = torch.zeros(3, 1, 4, 4, requires_grad=True)
    loss = ClusterwiseLoss(
        torch.nn.Flatten(), torch.rand(3, 16), ObjectiveConfig(), AugmentConfig()
    )
    loss(delta, micro).sum().backward()
    assert delta.grad is not None
    assert delta.grad[0].any()
    assert delta.grad[1].any()
    assert not delta.grad[2].any()
