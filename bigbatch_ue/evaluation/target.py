"""Target networks: trained from scratch, fine-tuned, or a linear probe on a frozen encoder."""

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.evaluation_sections import TargetConfig
from bigbatch_ue.config.sections import AugmentConfig
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.networks.simclr import train_simclr
from bigbatch_ue.networks.spec import target_spec
from bigbatch_ue.networks.weights import load_body, load_package_body


class WithLinearHead(nn.Module):
    """A network `body` with a new linear classifier.

    Args:
        body: maps float [M, C, H, W] in [0, 1] to features [M, d].
        features: d.
        classes: number of outputs.
        frozen: keep the body in evaluation mode, without gradients: linear probing.
    """

    def __init__(self, body: nn.Module, features: int, classes: int, *, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.body = body.requires_grad_(not frozen)
        self.head = nn.Linear(features, classes)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen body stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map float images [M, C, H, W] in [0, 1] to logits [M, classes]."""
        logits: Tensor = self.head(self.body(images))
        return logits


def build_target(
    config: TargetConfig,
    images: NDArray[np.uint8],
    classes: int,
    *,
    augment: AugmentConfig,
    seed: int,
    device: torch.device,
) -> nn.Module:
    """Build the network of `config` as it is before training with labels.

    Args:
        config: model, arguments, recipe and origin of the weights. `scratch` draws them.
            `pretrained` (timm's hub), `package` and `file:PATH` put a new classifier on a trained
            body.
            `simclr` trains the body on `images` without labels and freezes it.
        images: uint8 [N, C, H, W], the images of the scraper.
        classes: number of outputs.
        augment: its flip is used in SimCLR's views.
        seed: the only source of randomness.
        device: where SimCLR trains.

    Returns:
        A module that maps float [M, C, H, W] in [0, 1] to logits [M, classes].

    Raises:
        UserError: as for `build_network`, `load_body` and `train_simclr`.
    """
    _, channels, size, _ = images.shape
    kind, _, file = config.weights.partition(":")
    spec = target_spec(config, channels, size)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if kind == "scratch":
            return build_network(spec, classes)
        if kind == "file":
            body, _ = load_body(expand_path(file), spec)
        elif kind == "package":
            body, _ = load_package_body(spec)
        else:
            body = build_network(spec, 0, pretrained=kind == "pretrained")
        features = int(body.eval()(torch.zeros(1, channels, size, size)).shape[1])
        target = WithLinearHead(body, features, classes, frozen=kind == "simclr")
    if kind == "simclr":
        body.requires_grad_(True)
        train_simclr(body, images, TrainingSettings(config.fit, augment, seed, device))
        body.requires_grad_(False)
    return target
