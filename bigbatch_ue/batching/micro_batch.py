"""The largest micro-batch that fits into the memory of a device: found once, then remembered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from bigbatch_ue.batching.plan import DEFAULT_MICRO_BATCH
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.locks import locked
from bigbatch_ue.runtime.device import device_name
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.host import available_memory

_ONEDNN = "a primitive"
"""Part of oneDNN's error `could not create a primitive`: a convolution had too little memory."""


class MicroBatchTooLargeError(Exception):
    """The error of every rank when a micro-batch is too large for the memory of any of them."""


def works_in_memory(work: Callable[[], Any]) -> bool:
    """Run `work` and return whether memory sufficed; other errors are raised."""
    try:
        work()
    except RuntimeError as error:
        if not (should_reduce_batch_size(error) or _ONEDNN in str(error)):
            raise
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def halve_micro_batch(micro: int) -> int:
    """Return the next smaller micro-batch to try.

    Raises:
        UserError: a single image does not fit.
    """
    if micro == 1:
        raise UserError(
            "batch.micro: not even one image fits into memory; set compute.checkpointing=true, or "
            "use a smaller surrogate.model or data.size"
        )
    return micro // 2


def initial_micro_batch(config: Config, bytes_per_image: int, device: torch.device) -> int:
    """Return the micro-batch to try first: one that fitted before, else `DEFAULT_MICRO_BATCH`.

    A CPU cannot be tried out, since the system ends a process that exceeds its memory. Its
    micro-batch must be expected to fit half of the available memory.

    Args:
        config: the resolved configuration.
        bytes_per_image: expected memory of the surrogate for one image.
        device: of the surrogate.
    """
    path = _memory_file(config)
    known = read_json(path, dict).get(_key(config, device)) if path.exists() else None
    if known:
        return int(known)
    micro = DEFAULT_MICRO_BATCH[device.type]
    if device.type == "cpu":
        available = available_memory() / 2
        while micro > 1 and micro * bytes_per_image > available:
            micro //= 2
    return micro


def remember_micro_batch(config: Config, device: torch.device, micro: int) -> None:
    """Record beside the data that `micro` images fit with this surrogate and size on `device`."""
    path = _memory_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        known = read_json(path, dict) if path.exists() else {}
        if known.get(_key(config, device)) != micro:
            write_json(path, known | {_key(config, device): micro})


def gradient_fits(loss: Callable[[Tensor], Tensor], delta: Tensor) -> bool:
    """Return whether losses of perturbations `delta` [p, C, H, W] and their gradient fit."""
    leaf = torch.zeros_like(delta).requires_grad_()
    return works_in_memory(lambda: torch.autograd.grad(loss(leaf).sum(), leaf))


def _memory_file(config: Config) -> Path:
    return config.data.root / "surrogates" / "micro-batches.json"


def _key(config: Config, device: torch.device) -> str:
    surrogate = config.surrogate.model_dump(mode="json", include={"model", "args", "stem"})
    compute = config.compute.model_dump(mode="json", exclude={"images"})
    details = digest([surrogate, compute])
    return f"{device_name(device)}; {config.surrogate.model}, {config.data.size} px, {details}"
