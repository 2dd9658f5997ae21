"""The engine around the generator bank: one process, DDP, FSDP2 or DeepSpeed ZeRO.

The engine is the one that Accelerate was launched with. It wraps the bank and its optimizer, and
nothing else: the surrogate never enters it (docs/design.md, invariant 2).
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import timm.optim
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from bigbatch_ue.config.sections import OptimizerConfig
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runtime.accelerator import engine_name
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.memory import return_freed_memory
from bigbatch_ue.runtime.ranks import EngineName

_OPTIMIZERS: dict[str, Any] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,  # FSDP2 shards no fused one
    "lars": timm.optim.Lars,
    "lamb": timm.optim.Lamb,
}


def bank_parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the bank's parameters in an engine's state, by their own names."""
    prefix = "parameter/"
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


class Engine:
    """The generator bank and its optimizer under one engine.

    Args:
        accelerator: from `start_accelerator`.
        bank: the generators; the only module that is wrapped.
        optimizer: kind of optimizer and its settings.
        accumulation: largest number of backward passes in one optimizer step: 1 on the delta path,
            the number of micro-batches on the engine path.

    Raises:
        UserError: the optimizer needs whole layers, or Accelerate did not wrap the bank as the
            engine should.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        bank: GeneratorBank,
        optimizer: OptimizerConfig,
        accumulation: int,
    ) -> None:
        self.accelerator = accelerator
        self.name = engine_name(accelerator)
        self._configured = accumulation
        if optimizer.name in ("lars", "lamb") and self.name not in (
            EngineName.SINGLE,
            EngineName.DDP,
        ):
            raise UserError(
                f"optimizer.name={optimizer.name}: scales each layer by its norm, but {self.name} "
                "shards layers; use one process or DDP, or adam, adamw or sgd"
            )
        self.begin_step(accumulation)
        if self.name.is_zero:
            self._fill_deepspeed_config()
        torch_optimizer = _OPTIMIZERS[optimizer.name](
            bank.parameters(), lr=optimizer.lr, weight_decay=optimizer.weight_decay
        )
        self.shape = tuple(bank.noise.shape)
        self._shell = (
            copy.deepcopy(bank).to("meta")
            if self.name in (EngineName.ZERO3, EngineName.FSDP2)
            else None
        )
        self.bank, self.optimizer = accelerator.prepare(bank, torch_optimizer)
        return_freed_memory()  # of the copies that wrapping has made of the parameters
        self._check_wrapped()

    def _fill_deepspeed_config(self) -> None:
        """Fill in the numbers that DeepSpeed demands; a micro-batch counts as one sample."""
        config = self.accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1
        config["gradient_accumulation_steps"] = self._configured
        config["train_batch_size"] = self._configured * self.accelerator.num_processes
        config["gradient_clipping"] = 0.0

    def _check_wrapped(self) -> None:
        expected: type = nn.Module
        if self.name is EngineName.DDP:
            expected = DistributedDataParallel
        elif self.name is EngineName.FSDP2:
            expected = FSDPModule
        elif self.name.is_zero:
            from deepspeed import DeepSpeedEngine

            expected = DeepSpeedEngine
        if not isinstance(self.bank, expected):
            raise UserError(
                f"engine {self.name}: the bank is a {type(self.bank).__name__}, not wrapped by it; "
                "check the launcher's config"
            )

    def perturbations(self) -> Tensor:
        """Run all generators: float32 [p, C, H, W], differentiable in their parameters."""
        delta: Tensor = self.bank(range(self.shape[0]))
        return delta

    def current_perturbations(self) -> Tensor:
        """Return the perturbations as trained so far, float32 [p, C, H, W], without a graph.

        The generators stay in training mode, as in the passes that are trained.
        """
        with torch.no_grad():
            return self.perturbations().float()

    def begin_step(self, accumulation: int) -> None:
        """Prepare a step of `accumulation` backward passes; the next steps have as many."""
        self.accumulation = accumulation
        self.accelerator.gradient_accumulation_steps = accumulation
        self.accelerator.step = 0  # Accelerate counts passes from here to find a step's last

    @contextmanager
    def accumulating(self, lr: float) -> Iterator[None]:
        """Enclose one of the step's `accumulation` backward passes; the last takes the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.accelerator.accumulate(self.bank):
            yield
            self.optimizer.step()
            self.optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's `loss` to the sum over ranks and passes.

        Engines average over ranks and accumulated passes; DeepSpeed divides by the number that it
        was configured with, however many passes a step has. The factor here undoes that.
        """
        divisor = self._configured if self.name.is_zero else self.accumulation
        self.accelerator.backward(loss * (self.accelerator.num_processes * divisor))

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over ranks, on every rank."""
        total: Tensor = self.accelerator.reduce(tensor, "sum")
        return total

    def state(self) -> dict[str, Tensor]:
        """Return whole parameters and optimizer state, even if sharded; a collective call.

        Keys are `parameter/<name>` and `<optimizer state>/<name>`. A state of one engine and world
        size can be restored on another.
        """
        whole = {}
        for name, parameter in self._named_parameters():
            whole[f"parameter/{name}"] = self._gather(parameter)
            for key in self._state_keys():
                whole[f"{key}/{name}"] = self._gather(parameter, key)
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in whole.items()}

    def restore_optimizer(self, state: Mapping[str, Tensor], step: int) -> None:
        """Restore the optimizer from `state`, as it was after `step` steps; a collective call.

        Parameters are not changed: load them into the bank before it is wrapped. The optimizer's
        state exists only after its first step, so one is taken at rate zero and then overwritten.
        """
        for _ in range(self.accumulation):
            with self.accumulating(lr=0.0):
                self.backward(self.perturbations().sum() * 0)
        for name, parameter in self._named_parameters():
            for key in self._state_keys():
                self._scatter(parameter, key, state[f"{key}/{name}"])
        for entry in self._torch_optimizer().state.values():
            if isinstance(entry.get("step"), Tensor):
                entry["step"].fill_(step)
            elif "step" in entry:
                entry["step"] = step
        for group in self.optimizer.param_groups:
            if "step" in group:
                group["step"] = step

    def gather_bank(self) -> GeneratorBank:
        """Return the generators unwrapped, with whole parameters; a collective call.

        Do not change them. If the engine shards parameters, they are a copy, which takes memory as
        long as it is held.
        """
        own: GeneratorBank = self.accelerator.unwrap_model(self.bank)
        if self._shell is None:
            return own
        whole = copy.deepcopy(self._shell).to_empty(device=self.accelerator.device)
        with torch.no_grad():
            whole.noise.copy_(own.noise)
            for target, (_, source) in zip(
                whole.parameters(), self._named_parameters(), strict=True
            ):
                target.copy_(self._gather(source))
        return whole

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.accelerator.unwrap_model(self.bank).named_parameters()

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.optimizer
        while hasattr(optimizer, "optimizer"):  # Accelerate's wrapper, and ZeRO's
            optimizer = optimizer.optimizer
        return optimizer

    def _state_keys(self) -> list[str]:
        entry: dict[str, Any] = next(iter(self._torch_optimizer().state.values()), {})
        return sorted(k for k, v in entry.items() if isinstance(v, Tensor) and v.ndim > 0)

    def _shards_optimizer(self) -> bool:
        return self.name in (EngineName.ZERO1, EngineName.ZERO2, EngineName.ZERO3)

    def _gather(self, parameter: Any, key: str | None = None) -> Tensor:
        """Return the whole parameter, or its whole optimizer state `key`."""
        whole: Tensor
        if self._shards_optimizer():
            from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

            if key is None:
                whole = safe_get_full_fp32_param(parameter)
            else:
                whole = safe_get_full_optimizer_state(parameter, key)
            return whole
        whole = parameter if key is None else self._torch_optimizer().state[parameter][key]
        return whole.full_tensor() if isinstance(whole, DTensor) else whole

    def _scatter(self, parameter: Any, key: str, whole: Tensor) -> None:
        """Set the optimizer state `key` of `parameter` from the whole tensor."""
        whole = whole.to(self.accelerator.device)
        if self.name is EngineName.ZERO3:
            from deepspeed.utils import safe_set_local_optimizer_state

            # DeepSpeed's setter of the whole ignores the padding of the last rank's shard.
            size, rank = parameter.ds_tensor.ds_numel, self.accelerator.process_index
            padding = size * self.accelerator.num_processes - whole.numel()
            shard = F.pad(whole.flatten(), (0, padding)).narrow(0, size * rank, size)
            safe_set_local_optimizer_state(parameter, shard, key)
            return
        if self._shards_optimizer():
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, whole, key)
            return
        held = self._torch_optimizer().state[parameter][key]
        if isinstance(held, DTensor):
            whole = distribute_tensor(whole, held.device_mesh, held.placements)
        held.copy_(whole)
