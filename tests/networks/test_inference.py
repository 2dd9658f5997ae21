"""Predictions over a whole set of images."""

import pytest
import torch

from bigbatch_ue.networks.inference import accuracy, autocast, predict, to_float
from tests.helpers.networks import CPU, Split, small_network


@pytest.mark.parametrize("batch", [3, 7, 512])
def test_invariant_5_prediction_counts_each_image_once(
    digits: tuple[Split, Split], batch: int
) -> None:
    images, labels = digits[1][0][:20], digits[1][1][:20]
    model = small_network().eval()
    with autocast(CPU):
        expected = model(to_float(torch.from_numpy(images))).float().softmax(1)
    probabilities = predict(model.train(), images, CPU, batch=batch)
    torch.testing.assert_close(probabilities, expected)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20))
    correct = (expected.argmax(1).numpy() == labels).mean()
    assert accuracy(model, images, labels, CPU) == pytest.approx(correct)
