"""Micro-batches on the device, from its own memory or prefetched from the memory map."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigbatch_ue.batching.sampler import GlobalBatch
from bigbatch_ue.data.distortions import Distortions
from bigbatch_ue.data.views import Views

_PREFETCH = 2


@dataclass(frozen=True)
class MicroBatch:
    """Part of a global batch, with its images.

    Attributes:
        images: uint8 [m, C, H, W] on the device.
        generator: as of `GlobalBatch`; likewise `views`, `weight` and `distortions`.
    """

    images: Tensor
    generator: NDArray[np.int32]
    views: Views
    weight: NDArray[np.float32]
    distortions: Distortions | None = None

    def __len__(self) -> int:
        return len(self.generator)


class MicroBatchLoader:
    """The source of micro-batches on a device.

    Args:
        images: uint8 [N, C, H, W], the train images, often a memory map.
        device: of the surrogate.
        place: `device` keeps all images on the device; `host` reads each micro-batch while the one
            before it is computed, through page-locked memory for a GPU; `auto` is `device` on a GPU
            if the images need at most half of its free memory, else `host`.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        device: torch.device,
        place: Literal["auto", "device", "host"] = "auto",
    ) -> None:
        self.images, self.device = images, device
        if place == "auto":
            place = "device" if _has_room(device, images.nbytes) else "host"
        self.resident = torch.from_numpy(np.array(images)).to(device) if place == "device" else None

    def __call__(self, batch: GlobalBatch, parts: Iterable[slice]) -> Iterator[MicroBatch]:
        """Yield the micro-batch of each of `parts` of `batch`, in their order."""
        pieces = (batch[part] for part in parts)
        if self.resident is None:
            yield from self._prefetched(pieces)
            return
        for piece in pieces:
            index = torch.as_tensor(piece.index, device=self.device)
            yield _micro(piece, self.resident.index_select(0, index))

    def _prefetched(self, pieces: Iterator[GlobalBatch]) -> Iterator[MicroBatch]:
        pending: deque[tuple[GlobalBatch, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(max_workers=1) as reader:
            for piece in islice(pieces, _PREFETCH):
                pending.append((piece, reader.submit(self._read, piece.index)))
            while pending:
                piece, images = pending.popleft()
                following = next(pieces, None)
                if following is not None:
                    pending.append((following, reader.submit(self._read, following.index)))
                yield _micro(piece, images.result().to(self.device, non_blocking=True))

    def _read(self, index: NDArray[np.int32]) -> Tensor:
        shape = (len(index), *self.images.shape[1:])
        read = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        np.take(self.images, index, axis=0, out=read.numpy(), mode="clip")
        return read


def _micro(piece: GlobalBatch, images: Tensor) -> MicroBatch:
    return MicroBatch(images, piece.generator, piece.views, piece.weight, piece.distortions)


def _has_room(device: torch.device, needed: int) -> bool:
    return device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] / 2
