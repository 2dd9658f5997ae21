"""Small networks, and how they are trained."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.sections import AugmentConfig, TrainingRecipe
from bigbatch_ue.networks.backbone import Normalised, build_network
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.networks.spec import NetworkSpec

CPU = torch.device("cpu")
NARROW = {"channels": [8, 8, 16, 32]}
Split = tuple[NDArray[np.uint8], NDArray[np.int64]]


def small_network(outputs: int = 10) -> nn.Module:
    """Two convolutions, dropout and a linear layer for grey images of 8 x 8 pixels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128, outputs),
        )


def settings(
    *, seed: int = 0, pad: int = 0, flip: bool = False, **recipe: float | str
) -> TrainingSettings:
    """How a small network is trained on the CPU: one epoch in batches of 64, if not said."""
    return TrainingSettings(
        TrainingRecipe.model_validate({"epochs": 1, "batch": 64, **recipe}),
        AugmentConfig(pad=pad, flip=flip),
        seed,
        CPU,
    )


def built(
    name: str = "resnet18", *, classes: int = 0, pretrained: bool = False, **spec: Any
) -> Normalised:
    """A network of timm for grey images of 8 x 8 pixels, but for the `spec` given."""
    whole = NetworkSpec(name, **{"channels": 1, "size": 8, **spec})
    return build_network(whole, classes, pretrained=pretrained)


def convolution(model: Normalised, name: str = "conv1") -> nn.Conv2d:
    found = model.net.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one | other)
