"""The unlearnable-clusters objective: pull each cluster's features to another cluster's centre."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.config.sections import AugmentConfig, ObjectiveConfig
from bigbatch_ue.data.views import apply_views


def distance(features: Tensor, row: Tensor, targets: Tensor, objective: ObjectiveConfig) -> Tensor:
    """How far each feature is from the target of its row.

    `kl` is KL(softmax(centre / T) || softmax(feature / T)), the discrepancy of Zhang et al.
    (CVPR 2023, equation 5) with a temperature; `cosine` is 1 - cos(feature, centre);
    `cross_entropy` classifies the feature among all targets by cosine similarity / T.

    Args:
        features: float [m, d].
        row: int64 [m], the perturbation that each image carries.
        targets: float [p, d], the target centre of each perturbation.
        objective: which distance, and its temperature T.

    Returns:
        float32 [m], not negative.
    """
    features, targets = features.float(), targets.float()
    temperature = objective.temperature
    match objective.name:
        case "kl":
            wanted = F.log_softmax(targets / temperature, dim=1)[row]
            found = F.log_softmax(features / temperature, dim=1)
            return F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)
        case "cosine":
            return 1 - F.cosine_similarity(features, targets[row], dim=1)
        case "cross_entropy":
            similarity = F.normalize(features, dim=1) @ F.normalize(targets, dim=1).T
            return F.cross_entropy(similarity / temperature, row, reduction="none")


@dataclass(frozen=True)
class ClusterwiseLoss:
    """Weighted losses of a micro-batch under given perturbations.

    Attributes:
        surrogate: frozen; float [m, C, H, W] in [0, 1] to features [m, d].
        targets: float32 [p, d].
        objective: which distance.
        augment: padding of the views, and whether the perturbation goes on before or after them.

    Surrogate, targets, perturbations and images are on one device.
    """

    surrogate: nn.Module
    targets: Tensor
    objective: ObjectiveConfig
    augment: AugmentConfig

    def __call__(self, delta: Tensor, micro: MicroBatch) -> Tensor:
        """Losses weighted by 1/B, float32 [m], differentiable in `delta` [p, C, H, W]."""
        row = torch.as_tensor(micro.generator, dtype=torch.int64, device=delta.device)
        pad = self.augment.pad
        seen = apply_views(micro.images, micro.views, pad).float() / 255
        perturbation = delta.index_select(0, row)
        if self.augment.perturb == "before":
            perturbation = apply_views(perturbation, micro.views, pad)
        features = self.surrogate((seen + perturbation).clamp(0, 1))
        losses = distance(features, row, self.targets, self.objective)
        return losses * torch.as_tensor(micro.weight, device=delta.device)
