"""Measures of predictions on a test set, and of accuracies over epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch import Tensor

from bigbatch_ue.reporting.statistics import last_quarter


@dataclass(frozen=True)
class Measures:
    """The quality of predictions; fractions in [0, 1].

    Attributes:
        accuracy: fraction of the images whose prediction is their label.
        balanced_accuracy: mean recall of the classes that occur.
        auc: mean area under the ROC curves (Fawcett, 2006) of each class against the rest.
        confusion: images by true class (rows) and predicted class (columns).
    """

    accuracy: float
    balanced_accuracy: float
    auc: float
    confusion: list[list[int]]


def measure(scores: Tensor, labels: NDArray[np.int64]) -> Measures:
    """Compare predictions with labels.

    An image's prediction is the class with the highest score, the first among equals. Accuracy and
    AUC are those of `medmnist.Evaluator` (Yang et al., 2023), with one exception: a class of none
    or all of the images is left out of the AUC. The AUC is 0.5 if no class is left.

    Args:
        scores: float32 [N, classes], probabilities in [0, 1] on the CPU; NaN counts as 0. There
            are at least 1 image and 2 classes.
        labels: int64 [N] in 0 ... classes - 1.

    Raises:
        ValueError: a label is not a class.
    """
    probabilities = scores.nan_to_num(0).numpy()
    classes = probabilities.shape[1]
    if not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(f"labels: not all in 0 ... {classes - 1}")
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(classes))
    correct, images = confusion.diagonal(), confusion.sum(axis=1)
    return Measures(
        accuracy=float(correct.sum() / len(labels)),
        balanced_accuracy=float((correct[images > 0] / images[images > 0]).mean()),
        auc=_macro_auc(probabilities, labels),
        confusion=confusion.tolist(),
    )


def tail_statistics(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (ddof 0) over the last quarter of epochs, rounded up.

    Raises:
        ValueError: there are no accuracies.
    """
    tail = accuracies[-last_quarter(len(accuracies)) :]
    return fmean(tail), pstdev(tail)


def _macro_auc(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean AUC of the classes; of two classes, only that of the second.

    Rounding may make scores near 1 equal, but not scores near 0.
    """
    classes = scores.shape[1]
    areas = [
        float(roc_auc_score(labels == label, scores[:, label]))
        for label in ([1] if classes == 2 else range(classes))
        if 0 < (labels == label).sum() < len(labels)
    ]
    return fmean(areas) if areas else 0.5
