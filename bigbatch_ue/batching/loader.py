"""Micro-batches on the device: from its own memory, or read ahead from the memory map."""

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
from bigbatch_ue.data.views import Views

_PREFETCH = 2


@dataclass(frozen=True)
class MicroBatch:
    """m images uint8 [m, C, H, W] on the device, and how the global batch wants them."""

    images: Tensor
    generator: NDArray[np.int32]
    views: Views
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.generator)


class MicroBatchLoader:
    """Gets the images of micro-batches onto a device.

    Args:
        images: uint8 [N, C, H, W], the train images, often a memory map.
        device: where the surrogate is.
        place: `device` keeps all images there; `host` reads each micro-batch while the one before
            is computed, on a GPU through page-locked memory; `auto` is `device` on a GPU where they
            take at most half of the free memory.
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
        """The micro-batch of each of `parts` of `batch`, in their order."""
        pieces = (batch[part] for part in parts)
        if self.resident is None:
            yield from self._read_ahead(pieces)
            return
        for piece in pieces:
            index = torch.as_tensor(piece.index, device=self.device)
            yield _micro(piece, self.resident.index_select(0, index))

    def _read_ahead(self, pieces: Iterator[GlobalBatch]) -> Iterator[MicroBatch]:
        waiting: deque[tuple[GlobalBatch, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(max_workers=1) as reader:
            for piece in islice(pieces, _PREFETCH):
                waiting.append((piece, reader.submit(self._read, piece.index)))
            while waiting:
                piece, images = waiting.popleft()
                following = next(pieces, None)
                if following is not None:
                    waiting.append((following, reader.submit(self._read, following.index)))
                yield _micro(piece, images.result().to(self.device, non_blocking=True))

    def _read(self, index: NDArray[np.int32]) -> Tensor:
        shape = (len(index), *self.images.shape[1:])
        read = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        np.take(self.images, index, axis=0, out=read.numpy(), mode="clip")
        return read


def _micro(piece: GlobalBatch, images: Tensor) -> MicroBatch:
    return MicroBatch(images, piece.generator, piece.views, piece.weight)


def _has_room(device: torch.device, needed: int) -> bool:
    return device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] / 2
