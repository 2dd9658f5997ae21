"""The objective of unlearnable clusters: pull features towards another cluster's centre."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.config.sections import AugmentConfig, ObjectiveConfig
from bigbatch_ue.data.distortions import distort
from bigbatch_ue.data.views import apply_views


def distance(
    features: Tensor, generator: Tensor, targets: Tensor, objective: ObjectiveConfig
) -> Tensor:
    """Return the distance of each feature from the target centre of its generator.

    `kl` is KL(softmax(centre / T) || softmax(feature / T)), the discrepancy of Zhang et al.
    (CVPR 2023, equation 5) with a temperature. `cosine` is 1 - cos(feature, centre).
    `cross_entropy` classifies the feature among all targets by cosine similarity / T.

    Args:
        features: float [m, d].
        generator: int64 [m], the generator whose perturbation each image carries.
        targets: float [p, d], the target centre of each generator.
        objective: kind of distance, and its temperature T.

    Returns:
        float32 [m], non-negative.
    """
    features, targets = features.float(), targets.float()
    temperature = objective.temperature
    match objective.name:
        case "kl":
            centre = F.log_softmax(targets / temperature, dim=1)[generator]
            feature = F.log_softmax(features / temperature, dim=1)
            return F.kl_div(feature, centre, log_target=True, reduction="none").sum(dim=1)
        case "cosine":
            return 1 - F.cosine_similarity(features, targets[generator], dim=1)
        case "cross_entropy":
            similarity = F.normalize(features, dim=1) @ F.normalize(targets, dim=1).T
            return F.cross_entropy(similarity / temperature, generator, reduction="none")


@dataclass(frozen=True)
class ClusterwiseLoss:
    """The weighted losses of a micro-batch under given perturbations.

    Surrogate, targets, perturbations and images are on one device.

    Attributes:
        surrogate: frozen; maps float [m, C, H, W] in [0, 1] to features [m, d].
        targets: float32 [p, d], the target centre of each generator.
        objective: kind of distance.
        augment: padding of the views, and whether perturbations are added before or after them.
    """

    surrogate: nn.Module
    targets: Tensor
    objective: ObjectiveConfig
    augment: AugmentConfig

    def __call__(self, delta: Tensor, micro: MicroBatch) -> Tensor:
        """Return losses weighted by 1/B, float32 [m], differentiable in `delta` [p, C, H, W]."""
        generator = torch.as_tensor(micro.generator, dtype=torch.int64, device=delta.device)
        pad = self.augment.pad
        images = apply_views(micro.images, micro.views, pad).float() / 255
        perturbation = delta.index_select(0, generator)
        if self.augment.perturb == "before":
            perturbation = apply_views(perturbation, micro.views, pad)
        perturbed = (images + perturbation).clamp(0, 1)
        if micro.distortions:
            perturbed = distort(perturbed, micro.distortions)
        features = self.surrogate(perturbed)
        losses = distance(features, generator, self.targets, self.objective)
        return losses * torch.as_tensor(micro.weight, device=delta.device)
