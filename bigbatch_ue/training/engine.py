"""Engines: one process, DDP, FSDP2 or DeepSpeed ZeRO, whichever Accelerate was launched with.

`launch` starts what the launcher asked for and checks that it really did; `Engine` wraps the
generator bank and its optimizer, and nothing else: the surrogate never enters it (DESIGN,
invariant 2).
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from bigbatch_ue.runtime.ranks import EngineName

_OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "lars": timm.optim.Lars,
    "lamb": timm.optim.Lamb,
}


def bank_parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The bank's parameters in an engine's state, by their own names."""
    prefix = "parameter/"
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


class Engine:
    """The generator bank and its optimizer under one engine.

    Args:
        accelerator: from `launch`.
        bank: the generators; the only module that is wrapped.
        optimizer: which one, and its settings.
        accumulation: how many backward passes make one optimizer step: 1 on the delta path, the
            number of micro-batches when the engine accumulates.
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
        self.accumulation = accumulation
        if optimizer.name in ("lars", "lamb") and self.name not in (
            EngineName.SINGLE,
            EngineName.DDP,
        ):
            raise UserError(
                f"optimizer.name={optimizer.name} scales each layer by its norm, which {self.name} "
                "cuts into shards: use one process or DDP, or adam, adamw, sgd"
            )
        accelerator.gradient_accumulation_steps = accumulation
        accelerator.step = 0  # Accelerate counts passes from here to know a step's last one
        if self.name.is_zero:
            self._fill_deepspeed_config()
        made = _OPTIMIZERS[optimizer.name](
            bank.parameters(), lr=optimizer.lr, weight_decay=optimizer.weight_decay
        )
        self.shape = tuple(bank.noise.shape)
        self._shell = (
            copy.deepcopy(bank).to("meta")
            if self.name in (EngineName.ZERO3, EngineName.FSDP2)
            else None
        )
        self.bank, self.optimizer = accelerator.prepare(bank, made)
        self._check_wrapped()

    def _fill_deepspeed_config(self) -> None:
        """Give DeepSpeed the plan's numbers: images are counted here, a micro-batch is one pass."""
        config = self.accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1
        config["gradient_accumulation_steps"] = self.accumulation
        config["train_batch_size"] = self.accumulation * self.accelerator.num_processes
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
                f"the engine should be {self.name}, but the bank is a {type(self.bank).__name__}"
            )

    def perturbations(self) -> Tensor:
        """One pass of all generators: float32 [p, C, H, W], differentiable in their parameters."""
        delta: Tensor = self.bank()
        return delta

    def current_perturbations(self) -> Tensor:
        """The perturbations as trained so far: float32 [p, C, H, W], without a graph.

        The generators stay in training mode: it is the pass that was trained.
        """
        with torch.no_grad():
            return self.perturbations().float()

    @contextmanager
    def accumulating(self, lr: float) -> Iterator[None]:
        """One of the step's `accumulation` backward passes; the last makes the optimizer step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.accelerator.accumulate(self.bank):
            yield
            self.optimizer.step()
            self.optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's `loss`; over ranks and passes gradients are summed.

        Engines average over ranks, and over accumulated passes: multiplied back here.
        """
        self.accelerator.backward(loss * (self.accelerator.num_processes * self.accumulation))

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over ranks, on every rank."""
        total: Tensor = self.accelerator.reduce(tensor, "sum")
        return total

    def state(self) -> dict[str, Tensor]:
        """Parameters and optimizer state, whole, whatever the engine shards; a collective call.

        Keys are `parameter/<name>` and `<optimizer state>/<name>`: a state made on one engine and
        world size can be restored on another.
        """
        whole = {}
        for name, parameter in self._named_parameters():
            whole[f"parameter/{name}"] = self._gather(parameter)
            for key in self._state_keys():
                whole[f"{key}/{name}"] = self._gather(parameter, key)
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in whole.items()}

    def restore_optimizer(self, state: Mapping[str, Tensor], step: int) -> None:
        """Continue the optimizer from `state` as it was after `step` steps; a collective call.

        Parameters are not touched: load them into the bank before it is wrapped. The optimizer's
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
        """The generators with whole parameters, not wrapped, not to be changed; a collective call.

        Where the engine shards parameters it is a copy, which takes their memory while it is held.
        """
        own: GeneratorBank = self.accelerator.unwrap_model(self.bank)
        if self._shell is None:
            return own
        copied = copy.deepcopy(self._shell).to_empty(device=self.accelerator.device)
        with torch.no_grad():
            copied.noise.copy_(own.noise)
            for target, (_, source) in zip(
                copied.parameters(), self._named_parameters(), strict=True
            ):
                target.copy_(self._gather(source))
        return copied

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
        """The whole parameter, or the whole of its optimizer state `key`."""
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
        """Set the optimizer state `key` of `parameter` from the whole of it."""
        whole = whole.to(self.accelerator.device)
        if self.name is EngineName.ZERO3:
            from deepspeed.utils import safe_set_local_optimizer_state

            # DeepSpeed's setter of the whole forgets that the last rank's shard is padded.
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
