"""What is measured of predictions on a test set, and how numbers of several runs are summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_recall,
)

from bigbatch_ue.reporting.statistics import last_quarter


@dataclass(frozen=True)
class Measures:
    """How good predictions are; fractions in [0, 1].

    Attributes:
        accuracy: fraction of the images that get their label.
        balanced_accuracy: mean recall over the classes that occur.
        auc: area under the ROC curve (Fawcett, 2006) of a class against the rest, mean of classes.
        confusion: images by true class (rows) and predicted class (columns).
    """

    accuracy: float
    balanced_accuracy: float
    auc: float
    confusion: list[list[int]]


def measure(scores: Tensor, labels: NDArray[np.int64]) -> Measures:
    """Compare predictions with labels.

    An image's prediction is its highest score, the first among equals. Accuracy and AUC are those
    of `medmnist.Evaluator` (Yang et al., 2023), except that a class is left out of the AUC if none
    or all of the images are of it; the AUC is 0.5 if no class is left.

    Args:
        scores: float32 [N, classes], probabilities in [0, 1] on the CPU; NaN counts as 0. N is at
            least 1 and there are at least 2 classes.
        labels: int64 [N] in 0 ... classes - 1.

    Raises:
        RuntimeError: a label that is not a class.
    """
    scores, truth = scores.nan_to_num(0), torch.from_numpy(np.array(labels))
    classes = scores.shape[1]
    confusion = multiclass_confusion_matrix(scores, truth, classes)
    recalls = multiclass_recall(scores, truth, classes, average="none")
    return Measures(
        accuracy=float(multiclass_accuracy(scores, truth, classes, average="micro")),
        balanced_accuracy=float(recalls[confusion.sum(1) > 0].mean()),
        auc=_macro_auc(scores, truth),
        confusion=confusion.tolist(),
    )


def tail_statistics(accuracies: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) over the last quarter of the epochs, rounded up.

    Raises:
        ValueError: there are no accuracies.
    """
    last = accuracies[-last_quarter(len(accuracies)) :]
    return fmean(last), pstdev(last)


def _macro_auc(scores: Tensor, truth: Tensor) -> float:
    """Of two classes only the second counts, as rounding may tie scores near 1 but not near 0."""
    classes = scores.shape[1]
    sides = [
        (scores[:, label], (truth == label).int())
        for label in ([1] if classes == 2 else range(classes))
    ]
    areas = [float(binary_auroc(s, own)) for s, own in sides if 0 < own.sum() < len(own)]
    return fmean(areas) if areas else 0.5
