from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.helpers.networks import Split


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> tuple[Split, Split]:
    """Real digits, 8 x 8 pixels: 600 to train on, 300 to test on."""
    bunch = load_digits()
    images = (bunch.images * 255 / 16).round().astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    return (images[:600], labels[:600]), (images[600:900], labels[600:900])
