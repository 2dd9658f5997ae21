"""Distortions of views: each image by its own chain, and differentiable."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bigbatch_ue.data.distortions import (
    CHAIN,
    Distortion,
    Distortions,
    distort,
    draw_distortions,
)


def only(kind: Distortion, count: int, number: float = 0.9) -> Distortions:
    kinds = np.zeros((count, CHAIN), np.int8)
    kinds[:, 0] = kind
    return Distortions(kinds, np.full((count, CHAIN, 4), number, np.float32))


@pytest.fixture
def photographs() -> Tensor:
    """Smooth random colours with a sharp edge, [5, 3, 20, 20]."""
    coarse = torch.rand(5, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (20, 20), mode="bilinear")
    images[:, :, 8:12, 8:12] = 1 - images[:, :, 8:12, 8:12]
    return images


@pytest.mark.parametrize("kind", [kind for kind in Distortion if kind])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_kind_changes_images_within_range_and_lets_gradients_pass(
    kind: Distortion, channels: int, photographs: Tensor
) -> None:
    images = photographs[:, :channels].clone().requires_grad_()
    distorted = distort(images, only(kind, len(images)))
    assert distorted.shape == images.shape
    assert 0 <= distorted.min() <= distorted.max() <= 1
    if kind != Distortion.GREY or channels == 3:
        assert (distorted - images).abs().max() > 1 / 255
    distorted.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.2


def test_no_distortion_leaves_images_alone(photographs: Tensor) -> None:
    assert torch.equal(distort(photographs, only(Distortion.NONE, 5)), photographs)


def test_invariant_1_the_distortion_of_an_image_does_not_depend_on_the_others() -> None:
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    drawn = draw_distortions(np.random.default_rng(0), 40)
    assert set(drawn.kind.flatten()) == set(Distortion)
    together = distort(images, drawn)
    parts = [distort(images[part], drawn[part]) for part in (slice(0, 7), slice(7, 40))]
    torch.testing.assert_close(torch.cat(parts), together, atol=1e-6, rtol=0)


def test_a_low_jpeg_quality_changes_more_than_a_high_one(photographs: Tensor) -> None:
    low, high = (
        (distort(photographs, only(Distortion.JPEG, 5, number)) - photographs).abs().mean()
        for number in (0.0, 0.99)
    )
    assert low > 2 * high
