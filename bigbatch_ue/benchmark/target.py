"""Benchmark case: the training of a target, on random images."""

from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bigbatch_ue.config.names import MeasuredPath
from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.networks.spec import target_spec

_BATCHES = 4
_CLASSES = 10


class TargetCase:
    """The training of the target of `config` from scratch, as an evaluation does it.

    Args:
        config: its `target` and `augment` are the recipe.
        channels: C of the images.
        device: where to train.

    Attributes:
        effective_batch: images of a step of the target.
    """

    path: ClassVar = MeasuredPath.TARGET

    def __init__(self, config: Config, channels: int, device: torch.device) -> None:
        recipe, size = config.target.fit.model_copy(update={"epochs": 1}), config.data.size
        self.effective_batch = self.micro_batch = self.images = recipe.batch
        self._spec = target_spec(config.target, channels, size)
        self._settings = TrainingSettings(recipe, config.augment, config.seed, device)
        random = np.random.default_rng(0)
        shape = (_BATCHES * recipe.batch, channels, size, size)
        self._pixels = random.integers(256, size=shape, dtype=np.uint8)
        self._labels = random.integers(_CLASSES, size=len(self._pixels))
        self._network = build_network(self._spec, _CLASSES).to(device)

    def __str__(self) -> str:
        return f"target {self._spec.name}, batch {self.effective_batch}"

    @cached_property
    def flops(self) -> int:
        """Operations of a step: forward, and backward to all parameters."""
        with torch.device("meta"):
            network = build_network(self._spec, _CLASSES).train()
            images = torch.empty(2, self._spec.channels, self._spec.size, self._spec.size)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(network(images).sum())
        total: int = counter.get_total_flops()
        return total * self.effective_batch // len(images)

    def warm_up(self) -> None:
        """Do the work that is slow only at the first time."""
        self()

    def __call__(self) -> int:
        """Take a few steps, and return the number of images."""
        train_classifier(self._network, self._pixels, self._labels, self._settings)
        return len(self._pixels)
