"""Micro-batches: the right images, in order, from the device or the host."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bigbatch_ue.batching.loader import MicroBatchLoader
from bigbatch_ue.batching.sampler import GlobalBatch, Sampler
from bigbatch_ue.batching.schedule import BatchSchedule
from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.config.sections import AugmentConfig
from bigbatch_ue.data.views import apply_views

CPU = torch.device("cpu")
PLACES: list[Literal["device", "host"]] = ["device", "host"]


@pytest.fixture
def images(tmp_path: Path) -> NDArray[np.uint8]:
    """A read-only memory map."""
    random = np.random.default_rng(0)
    path = tmp_path / "images.npy"
    np.save(path, random.integers(256, size=(40, 3, 9, 8), dtype=np.uint8))
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


@pytest.fixture
def batch() -> GlobalBatch:
    assignment = np.arange(40) % 3
    augment = AugmentConfig(pad=2, flip=True)
    members = [np.flatnonzero(assignment == c) for c in range(3)]
    return Sampler(members, BatchSchedule.constant(25), False, 3, 1, augment).draw(2)


@pytest.mark.parametrize("place", PLACES)
def test_every_micro_batch_has_its_own_images(
    place: Literal["device", "host"], images: NDArray[np.uint8], batch: GlobalBatch
) -> None:
    parts = [even_slice(len(batch), 7, i) for i in range(7)] + [slice(4, 4)]
    micros = list(MicroBatchLoader(images, CPU, place)(batch, parts))
    assert [len(micro) for micro in micros] == [10, 11, 11, 10, 11, 11, 11, 0]
    for part, micro in zip(parts, micros, strict=True):
        assert micro.images.dtype == torch.uint8
        assert np.array_equal(micro.images.numpy(), images[batch.index[part]])
        assert np.array_equal(micro.generator, batch.generator[part])
        assert np.array_equal(micro.weight, batch.weight[part])
        assert np.array_equal(micro.views.flip, batch.views.flip[part])


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_read_twice_or_too_early(
    place: Literal["device", "host"], images: NDArray[np.uint8], batch: GlobalBatch
) -> None:
    """Prefetching keeps few micro-batches in memory, however many there are."""
    requested: list[int] = []

    class Watched(GlobalBatch):
        def __getitem__(self, part: slice) -> GlobalBatch:
            requested.append(part.start)
            return super().__getitem__(part)

    watched = Watched(batch.index, batch.generator, batch.views, batch.weight)
    loader = MicroBatchLoader(images, CPU, place)
    parts = [slice(i, i + 1) for i in range(20)]
    for done, _ in enumerate(loader(watched, parts), 1):
        assert done <= len(requested) <= done + 2
    assert requested == list(range(20))


def test_images_are_kept_on_the_host_of_a_cpu(images: NDArray[np.uint8]) -> None:
    assert MicroBatchLoader(images, CPU, "auto").resident is None
    assert MicroBatchLoader(images, CPU, "device").resident is not None


def test_views_are_made_where_the_images_are(batch: GlobalBatch) -> None:
    """On any device: crops, flips and indices never return to the CPU."""
    seen = apply_views(
        torch.empty(len(batch), 3, 9, 8, dtype=torch.uint8, device="meta"), batch.views, 2
    )
    assert seen.device.type == "meta"
    assert seen.shape == (len(batch), 3, 9, 8)
